package substitute

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
)

// What is answered without net/http is a request that net/http reads in the same way, with nothing in it
// that would call for another answer.
func FuzzNarinfoRequest(f *testing.F) {
	const hash = "0123456789abcdfghijklmnpqrsvwxyz"
	for _, headers := range []string{
		"Host: x\r\n", "host:x\r\nUser-Agent: GNU Guile\r\n", "Host: x\r\nConnection: keep-alive\r\n", "Host: x\r\nConnection: close\r\n",
		"Host: x\r\nHost: y\r\n", "Host : x\r\n", " Host: x\r\n", "Host: x\r\nRange: bytes=1-\r\n", "Host: x\r\nContent-Length: 5\r\n",
		"Host: x\r\nAccept: a\r\n b\r\n", "Host: x\nAccept: y\r\n", "Host: a b\r\n", "Host: \x00\r\n", "Host: x\r\nUser\rAgent: y\r\n", "",
	} {
		f.Add([]byte("GET /" + hash + ".narinfo HTTP/1.1\r\n" + headers + "\r\n"))
	}
	f.Add([]byte("GET /x HTTP/1.1\r\nHost: y\r\nAccept: .narinfo HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		end := bytes.Index(b, []byte("\r\n\r\n"))
		if end < 0 {
			return
		}
		hashPart, ok := narinfoRequest(b[:end+2])
		if !ok {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatalf("%q: net/http says %v", b, err)
		}
		if req.Method != "GET" || req.RequestURI != "/"+string(hashPart)+".narinfo" || req.URL.Path != req.RequestURI || req.ContentLength != 0 || req.Close {
			t.Errorf("%q is %+v", b, req)
		}
		for name := range req.Header {
			switch name {
			case "User-Agent", "Accept", "Accept-Encoding", "Connection":
			default:
				t.Errorf("%q has %s", b, name)
			}
		}
	})
}

// Answers to whatever comes on a connection are in order and whole; the rest is handed on as it came.
func FuzzQuick(f *testing.F) {
	const hash = "0123456789abcdfghijklmnpqrsvwxyz"
	one := "GET /" + hash + ".narinfo HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, s := range []string{one, one + one, one[:20], one + "HEAD / HTTP/1.1\r\n\r\n", "\r\n" + one, one + "\x00"} {
		f.Add([]byte(s))
	}
	h := &Handler{Source: nowhere{}}
	h.init.Do(h.setup)
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 2000 {
			return // else the answers would be flushed in between
		}
		var out []byte
		q := &quick{h: h, conn: new(clientConn), out: &out}
		used, _ := q.answer(t.Context(), in)
		if used < 0 || used > len(in) {
			t.Fatalf("used %d of %d bytes", used, len(in))
		}
		requests, answers := bufio.NewReader(bytes.NewReader(in[:used])), bufio.NewReader(bytes.NewReader(out))
		for requests.Buffered() > 0 || answers.Buffered() > 0 || len(out) > 0 {
			req, err := http.ReadRequest(requests)
			if err != nil {
				t.Fatalf("%q: %q is no request: %v", in, in[:used], err)
			}
			res, err := http.ReadResponse(answers, req)
			if err != nil {
				t.Fatalf("%q: answers %q: %v", in, out, err)
			}
			if res.StatusCode != 404 || res.ContentLength <= 0 {
				t.Errorf("%q: status %d, length %d", in, res.StatusCode, res.ContentLength)
			}
			res.Body.Close()
			if requests.Buffered() == 0 && answers.Buffered() == 0 {
				break
			}
		}
	})
}

// nowhere is a Source without items.
type nowhere struct{}

func (nowhere) Info(context.Context, string) (*Info, error) { return nil, ErrNotFound }

func (nowhere) WriteNAR(context.Context, io.Writer, *Info) error { return ErrNotFound }
