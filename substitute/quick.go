package substitute

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A quick answers the requests of one connection for as long as they are plain
// ones for narinfos:
//
//	GET /HASH.narinfo HTTP/1.1
//
// with no header that would matter. All that have come are answered in one write.
type quick struct {
	h    *Handler
	conn *clientConn
	idle time.Duration
	in   *[]byte // from quickBuffers
	out  *[]byte // from quickBuffers

	failed error // of the first write that did
}

// quickBytes is the size of a read and, about, of a write. More in flight would only
// make slow clients expensive.
const quickBytes = 32 << 10

var quickBuffers = sync.Pool{New: func() any { b := make([]byte, 0, quickBytes); return &b }}

// firstBytes is the size of the first read, for which a connection waits: many do so for long.
const firstBytes = 512

// serve returns what it has read of a request for something else. An error
// means that the connection is of no use any more. When ctx ends no more requests are waited for, when
// answering does nothing is looked up.
func (q *quick) serve(ctx, answering context.Context) (rest []byte, err error) {
	var first [firstBytes]byte
	for {
		q.conn.SetReadDeadline(time.Now().Add(q.idle))
		if ctx.Err() != nil { // the deadline may have undone closeQuiet's
			return nil, context.Cause(ctx)
		}
		n, err := q.conn.Read(first[:])
		if n == 0 {
			return nil, err
		}
		rest, idle, err := q.burst(ctx, answering, first[:n])
		if !idle || err != nil {
			return rest, err
		}
	}
}

// burst answers until the client has nothing more to ask for the moment; it holds buffers
// only so long.
func (q *quick) burst(ctx, answering context.Context, first []byte) (rest []byte, idle bool, err error) {
	q.in, q.out = quickBuffers.Get().(*[]byte), quickBuffers.Get().(*[]byte)
	defer func() {
		*q.in, *q.out = (*q.in)[:0], (*q.out)[:0]
		quickBuffers.Put(q.in)
		quickBuffers.Put(q.out)
	}()
	in := append(*q.in, first...)
	for {
		used, other := q.answer(answering, in)
		in = in[:copy(in, in[used:])]
		if err := q.flush(); err != nil {
			return nil, false, err
		}
		switch {
		case other || len(in) == cap(in):
			return bytes.Clone(in), false, nil
		case len(in) == 0 && used < quickBytes/2 && len(first) < firstBytes:
			q.conn.wait()
			return nil, true, nil
		}
		// A part of a request has come, or more is on its way.
		if used > 0 {
			q.conn.wait()
			q.conn.SetReadDeadline(time.Now().Add(q.idle))
			if ctx.Err() != nil {
				return nil, false, context.Cause(ctx)
			}
		}
		n, err := q.conn.Read(in[len(in):cap(in)])
		if n == 0 {
			return nil, false, err
		}
		in, first = in[:len(in)+n], nil
	}
}

// flush sends what there is to send. After a failure the connection has a hole: nothing more is sent.
func (q *quick) flush() error {
	if len(*q.out) == 0 || q.failed != nil {
		return q.failed
	}
	_, q.failed = q.conn.Write(*q.out)
	*q.out = (*q.out)[:0]
	return q.failed
}

// answer answers the whole requests in b and returns the bytes they take; other
// means that what follows is none that it answers.
func (q *quick) answer(ctx context.Context, b []byte) (used int, other bool) {
	for used < len(b) {
		end := bytes.Index(b[used:], []byte("\r\n\r\n"))
		if end < 0 {
			// What does not begin like one will not become one.
			return used, !bytes.HasPrefix(b[used:], []byte("GET /")[:min(5, len(b)-used)])
		}
		hashPart, ok := narinfoRequest(b[used : used+end+2])
		if used == 0 {
			q.conn.answer()
		}
		if !ok || !q.respond(ctx, hashPart) {
			return used, true
		}
		used += end + 4
		if len(*q.out) > quickBytes-4096 && q.flush() != nil {
			return used, false // the next flush says so again
		}
	}
	return used, false
}

const narinfoLine = ".narinfo HTTP/1.1\r\n"

// narinfoRequest returns the hash part if the request, up to the end of its last
// header line, is a plain one for a narinfo.
func narinfoRequest(b []byte) (hashPart []byte, ok bool) {
	const path = len("GET /")
	if len(b) < path+hashPartLen+len(narinfoLine) || string(b[:path]) != "GET /" ||
		string(b[path+hashPartLen:path+hashPartLen+len(narinfoLine)]) != narinfoLine {
		return nil, false
	}
	hashPart = b[path : path+hashPartLen]
	if !isBase32(string(hashPart)) {
		return nil, false
	}
	hosts := 0
	for rest := b[path+hashPartLen+len(narinfoLine):]; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\r\n"))
		rest = after
		name, value, found := bytes.Cut(line, []byte(":"))
		switch {
		case !found, !printable(value):
			return nil, false
		case isHeader(name, "host"):
			hosts++
		case isHeader(name, "user-agent"), isHeader(name, "accept"), isHeader(name, "accept-encoding"):
		case isHeader(name, "connection") && isHeader(bytes.TrimSpace(value), "keep-alive"):
		default:
			return nil, false
		}
	}
	return hashPart, hosts == 1
}

// printable reports whether b is of printable ASCII characters.
func printable(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// isHeader compares without case.
func isHeader(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// respond adds the response; it leaves failures of the Source to net/http.
func (q *quick) respond(ctx context.Context, hashPart []byte) bool {
	h := q.h
	n, err := h.lookup(ctx, string(hashPart))
	switch {
	case err == nil:
		h.metrics.narinfos.Add(1)
		b := append(*q.out, "HTTP/1.1 200 OK\r\nContent-Type: "+narinfoType+"\r\n"...)
		b = appendHead(b, h.TTL, n.tag, len(n.text))
		*q.out = append(b, n.text...)
	case errors.Is(err, ErrNotFound):
		h.metrics.missing.Add(1)
		body := "Resource not found: /" + string(hashPart) + ".narinfo"
		b := append(*q.out, "HTTP/1.1 404 "+http.StatusText(http.StatusNotFound)+"\r\nContent-Type: "+textType+"\r\n"...)
		b = appendHead(b, h.NegativeTTL, "", len(body))
		*q.out = append(b, body...)
	default:
		return false
	}
	return true
}

// appendHead writes the rest of a response's head.
func appendHead(b []byte, ttl time.Duration, tag string, length int) []byte {
	if ttl > 0 {
		b = append(b, "Cache-Control: max-age="...)
		b = strconv.AppendInt(b, int64(ttl/time.Second), 10)
		b = append(b, "\r\n"...)
	}
	if tag != "" {
		b = append(b, "ETag: "...)
		b = append(b, tag...)
		b = append(b, "\r\n"...)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(length), 10)
	return append(b, "\r\n\r\n"...)
}
