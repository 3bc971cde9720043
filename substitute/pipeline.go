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
	const attempts = 3
	for failures := 0; len(indices) > 0; {
		done, err := r.pipelineOnce(ctx, hashParts, indices, each)
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

// pipelineOnce uses one connection for as long as it lasts, and returns the
// number of answers.
func (r *remote) pipelineOnce(ctx context.Context, hashParts []string, indices []int, each func(int, answer)) (done int, err error) {
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
	in := bufio.NewReaderSize(conn, 64<<10)
	late := time.Now().Add(r.client.Stall)
	for _, i := range indices {
		// Each answer has its time, and all of them together not that many times as much.
		late = late.Add(longAnswer)
		conn.SetReadDeadline(earlier(late, time.Now().Add(r.client.Stall)))
		closing, err := r.readPipelined(ctx, in, hashParts[i], func(a answer) { each(i, a) })
		if err != nil {
			return done, err
		}
		done++
		<-slots
		if closing {
			return done, nil
		}
	}
	return done, nil
}

// longAnswer is more than any answer among many should take.
const longAnswer = time.Second

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
	defer res.Body.Close()
	var a answer
	if res.StatusCode >= 300 && res.StatusCode < 400 {
		io.Copy(io.Discard, io.LimitReader(res.Body, maxNarInfo))
		a = r.follow(ctx, hashPart)
	} else if a, err = readAnswer(res); err != nil {
		return false, err
	}
	each(a)
	// Of what is too long the rest is not waited for.
	return res.Close || a.err == errTooLong, nil
}

// follow makes an ordinary request, which follows redirects.
func (r *remote) follow(ctx context.Context, hashPart string) answer {
	a, err := r.askOne(ctx, hashPart)
	if err != nil {
		a.err = err
	}
	return a
}
