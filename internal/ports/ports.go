// Package ports finds ports for servers that are started a good deal later.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

var (
	mu    sync.Mutex // guards given
	given = map[int]bool{}
)

// Free returns a port that nobody listens on just now, another one each time. It is none of those that
// the kernel gives to whoever connects to something, or listens anywhere: any process could have taken
// one of those by then, and the server could not start.
func Free() (int, error) {
	low, high := 32768, 60999
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(text), &low, &high)
	}
	const first = 10000
	if low <= first+1000 {
		return 0, fmt.Errorf("find free port: the kernel gives all from %d to whoever connects", low)
	}
	mu.Lock()
	defer mu.Unlock()
	for range 100 {
		port := first + rand.IntN(low-first)
		if given[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err == nil {
			given[port] = true
			return port, l.Close()
		}
	}
	return 0, errors.New("find free port: none of a hundred is")
}
