package substitute

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// pipelineDepth is how many requests are under way at most: as many as "guix
// substitute" has, so that servers are used to it.
const pipelineDepth = 1000

// pipeline asks for many narinfos over one connection, without waiting for an
// answer before the next request; net/http has no way to do that. If the
// server closes the connection, the rest is asked over another.
func (r *remote) pipeline(ctx context.Context, hashParts []string, indices []int, each func(int, answer)) error {
	late := time.Now().Add(r.client.Stall + longAnswer)
	for failures := 0; len(indices) > 0; {
		done, err := r.pipelineOnce(ctx, hashParts, indices, &late, each)
		indices = indices[done:]
		switch {
		case done > 0 && !errors.Is(err, os.ErrDeadlineExceeded):
			failures = 0
		case err == nil: // closed without an answer
			err = io.ErrUnexpectedEOF
			fallthrough
		default:
			if failures++; failures == attempts || ctx.Err() != nil {
				return err
			}
		}
	}
	return nil
}

// attempts is how often in a row a cache may fail before it is given up.
const attempts = 3

// pipelineOnce uses one connection for as long as it lasts, and returns the
// number of answers. late is when the next one must have come, over whatever connections those before it came.
func (r *remote) pipelineOnce(ctx context.Context, hashParts []string, indices []int, late *time.Time, each func(int, answer)) (done int, err error) {
	port := r.base.Port()
	if port == "" {
		port = "80"
	}
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", net.JoinHostPort(r.base.Hostname(), port))
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	slots := make(chan struct{}, pipelineDepth)
	ended, written := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(written)
		r.writeRequests(conn, hashParts, indices, slots, ended)
	}()
	defer func() {
		close(ended)
		conn.Close()
		<-written
	}()
	bounded := &io.LimitedReader{R: conn}
	in := bufio.NewReaderSize(bounded, 64<<10)
	for _, i := range indices {
		// Each answer has its time, and all of them together not that many times as much.
		conn.SetReadDeadline(earlier(*late, time.Now().Add(r.client.Stall)))
		bounded.N = maxResponse
		closing, err := r.readPipelined(ctx, in, hashParts[i], func(a answer) { each(i, a) })
		if err != nil {
			return done, err
		}
		done++
		*late = late.Add(longAnswer)
		<-slots
		if closing {
			return done, nil
		}
	}
	return done, nil
}

const (
	// longAnswer is more than any answer among many should take.
	longAnswer = time.Second
	// maxResponse is more than the longest narinfo and its header take; package http would read a header
	// of any length.
	maxResponse = maxNarInfo + 64<<10
)

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// writeRequests writes a request whenever there is a slot, many in one write.
// When the connection breaks it just ends: the reading side notices.
func (r *remote) writeRequests(conn net.Conn, hashParts []string, indices []int, slots chan<- struct{}, ended <-chan struct{}) {
	out := bufio.NewWriterSize(conn, 64<<10)
	tail := fmt.Sprintf(".narinfo HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\n", r.base.Host, userAgent)
	if user := r.base.User; user != nil {
		password, _ := user.Password()
		tail += "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	for _, i := range indices {
		select {
		case slots <- struct{}{}:
		default:
			if out.Flush() != nil {
				return
			}
			select {
			case slots <- struct{}{}:
			case <-ended:
				return
			}
		}
		if _, err := out.WriteString("GET " + r.base.EscapedPath() + hashParts[i] + tail + "\r\n"); err != nil {
			return
		}
	}
	out.Flush() // an error means that the connection is gone
}

// readPipelined reads one response, and tells whether it is the last.
func (r *remote) readPipelined(ctx context.Context, in *bufio.Reader, hashPart string, each func(answer)) (closing bool, err error) {
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return false, err
	}
	// Of what is too long the rest is not waited for, as closing the body would.
	var a answer
	if res.StatusCode >= 300 && res.StatusCode < 400 {
		_, err := io.CopyN(io.Discard, res.Body, maxNarInfo)
		closing = err != io.EOF
		a = r.follow(ctx, hashPart)
	} else {
		if a, err = readAnswer(res); err != nil {
			return false, err
		}
		closing = a.err == errTooLong
	}
	each(a)
	return closing || res.Close, nil
}

// follow makes an ordinary request, which follows redirects.
func (r *remote) follow(ctx context.Context, hashPart string) answer {
	a, err := r.askOne(ctx, hashPart)
	if err != nil {
		a.err = err
	}
	return a
}
