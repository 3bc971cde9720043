package substitute

import (
	"net"
	"syscall"
)

// A quickConn asks for immediate acknowledgement after each read, since the
// kernel takes the option back by itself. Embedding *net.TCPConn keeps ReadFrom,
// and with it sendfile.
type quickConn struct {
	*net.TCPConn
	raw syscall.RawConn
	set func(fd uintptr)
}

func quickACK(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	return &quickConn{tcp, raw, func(fd uintptr) {
		// A failure costs only time.
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	}}
}

func (c *quickConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 0 {
		c.raw.Control(c.set)
	}
	return n, err
}
