package container

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// A proxy is what a web server is to its upstream: each new connection goes to the address
// that a file names, which the hook exchanges.
type proxy struct {
	net.Listener
	target string
	wait   sync.WaitGroup
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, target: target}
	p.wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.wait.Go(func() { p.forward(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { l.Close(); p.wait.Wait() })
	return p
}

func (p *proxy) forward(from *net.TCPConn) {
	defer from.Close()
	address, err := os.ReadFile(p.target)
	if err != nil {
		return
	}
	to, err := net.Dial("tcp", strings.TrimSpace(string(address)))
	if err != nil {
		return
	}
	defer to.Close()
	var both sync.WaitGroup
	both.Go(func() { io.Copy(to, from); to.(*net.TCPConn).CloseWrite() })
	both.Go(func() { io.Copy(from, to); from.CloseWrite() })
	both.Wait()
}

// A crowd asks a hundred times a second until it is stopped, and counts.
type crowd struct {
	stop  context.CancelFunc
	wait  sync.WaitGroup
	asked int             // good once it has stopped
	waits []time.Duration // likewise: between two questions

	mu      sync.Mutex // guards what follows
	answers map[string]int
	lost    []error
}

func startCrowd(t *testing.T, url string) *crowd {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &crowd{stop: cancel, answers: make(map[string]int)}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Minute}
	c.wait.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		last := time.Now()
		for ; ctx.Err() == nil; c.asked++ {
			page := url
			if c.asked%400 == 0 {
				page += "slow" // takes a second, in which the others wait
			}
			c.wait.Go(func() { c.ask(client, page) })
			<-tick.C
			now := time.Now()
			c.waits, last = append(c.waits, now.Sub(last)), now
		}
	})
	t.Cleanup(func() { cancel(); c.wait.Wait() })
	return c
}

func (c *crowd) ask(client *http.Client, url string) {
	response, err := client.Get(url)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil && response.StatusCode != 200 {
			err = fmt.Errorf("status %s", response.Status)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.lost = append(c.lost, err)
		return
	}
	c.answers[string(text)]++
}

// TestSideBySideLosesNothing has a hundred requests a second go through a switch, an instant return, and a
// switch that stops the old container as soon as it is drained.
func TestSideBySideLosesNothing(t *testing.T) {
	guixtest.Require(t)
	scripts := samples(t)
	t.Run("ports", func(t *testing.T) {
		d, _ := realDeployment(t)
		target := filepath.Join(t.TempDir(), "target")
		setBeside(d, target, guixtest.FreePort(t), guixtest.FreePort(t))
		d.Probes = Probes{AllServices{}, HTTP{URL: "http://127.0.0.1:${PORT}/"}}
		losesNothing(t, d, target, scripts, "one", "two", "three")
	})
	t.Run("network", func(t *testing.T) {
		d, _ := realDeployment(t)
		target := filepath.Join(t.TempDir(), "target")
		port := guixtest.FreePort(t)
		setBeside(d, target, port, 0)
		d.Environment.Network = Network{Address: freeAddress(t), Gateway: freeAddress(t)}
		d.Environment.Settings["LISTEN"] = "0.0.0.0"
		d.Switch.Alternate = Alternate{Address: freeAddress(t)}
		d.Probes = Probes{AllServices{}, HTTP{URL: "http://${ADDRESS}:${PORT}/"},
			HTTP{URL: fmt.Sprintf("http://127.0.0.1:%d/", port), Inside: true}}
		losesNothing(t, d, target, scripts, "own one", "own two", "own three")
	})
}

func losesNothing(t *testing.T, d *Deployment, target string, scripts map[string]string, one, two, three string) {
	d.Switch.Traffic.Command = []string{"/bin/sh", "-c",
		`echo "${GUIXCI_ADDRESS:-127.0.0.1}:$GUIXCI_PORTS" > "$0.new" && mv "$0.new" "$0"`, target}
	d.Shares[0].Concurrent = true
	apply := func(name string) *Generation {
		t.Helper()
		g, err := d.Apply(t.Context(), Revision{Script: scripts[name]})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	apply(one)
	old, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	c := startCrowd(t, "http://"+startProxy(t, target).Addr().String()+"/")
	apply(two)
	kept, err := d.Running()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := d.RollBack(t.Context(), 0, Revision{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("back after %v", time.Since(begin))
	if in, err := d.Running(); err != nil || in.Process != old.Process {
		t.Errorf("%+v, %v", in, err)
	}
	d.Switch.StopOld = true
	apply(three)
	checkNothingLeft(t, d, old)
	checkNothingLeft(t, d, kept)
	c.stop()
	c.wait.Wait()
	slices.Sort(c.waits)
	median := c.waits[len(c.waits)/2] // a machine that stands still now and then has a few that are very long
	t.Logf("%d asked, one each %v, at the longest after %v, answers %v", c.asked, median, c.waits[len(c.waits)-1], c.answers)
	if median > 11*time.Millisecond {
		t.Errorf("the crowd has asked only once in %v", median)
	}
	if ours := c.answers[one] + c.answers[two] + c.answers[three]; ours+len(c.lost) != c.asked {
		t.Errorf("%d of %d answers are of the three", ours, c.asked)
	}
	if len(c.lost) > 0 || c.answers[one] == 0 || c.answers[three] == 0 {
		t.Errorf("%d requests were lost, such as by %v; answers %v", len(c.lost), c.lost[:min(3, len(c.lost))], c.answers)
	}
}
