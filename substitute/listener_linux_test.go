package substitute_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/genenetwork/guixci/substitute"
)

// A client that writes a request in pieces, as "guix substitute" does, does not wait for the second one until the kernel
// sees fit to acknowledge the first, which takes 40 ms each time.
func TestQuickACK(t *testing.T) {
	m, paths := filled("plain")
	h := &substitute.Handler{Source: m}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: h}
	go web.Serve(substitute.QuickACK(l))
	defer web.Close()
	for name, url := range map[string]string{"QuickACK": "http://" + l.Addr().String(), "Server": serve(t, h)} {
		c := dialServer(t, url)
		c.(*net.TCPConn).SetNoDelay(false)
		r := bufio.NewReader(c)
		const times = 100
		late := 0 // not by chance: without, all but the first ones are
		for range times {
			start := time.Now()
			fmt.Fprintf(c, "GET /%s.narinfo HTTP/1.1\r\n", paths[0].Hash())
			fmt.Fprint(c, "Host: x\r\n\r\n")
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			if time.Since(start) >= 40*time.Millisecond {
				late++
			}
		}
		if late > times/2 {
			t.Errorf("%s: %d of %d requests took 40 ms or longer", name, late, times)
		}
	}
}
