package guixtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"testing"
)

// FreePort returns a port that nobody listens on just now, for a server that the test starts a
// good deal later. It is none of those that the kernel gives to whoever connects to something: any
// connection of any process could have taken one of those by then, and the server could not start.
func FreePort(t testing.TB) int {
	t.Helper()
	low, high := 32768, 60999
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(text), &low, &high)
	}
	const first = 10000
	if low <= first+1000 {
		t.Fatalf("find free port: the kernel gives all from %d to whoever connects", low)
	}
	for range 100 {
		port := first + rand.IntN(low-first)
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("find free port: none of a hundred is")
	return 0
}
