//go:build !linux

package substitute

import "net"

func quickACK(c net.Conn) net.Conn { return c }
