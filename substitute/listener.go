package substitute

import "net"

// QuickACK returns a listener whose connections acknowledge at once what they
// read. "guix substitute" writes each request in several small pieces, the
// second of which it holds back until the first is acknowledged, which Linux
// otherwise delays by 40 ms: two hundred small items take 1.4 s instead of 10.
//
// Connections other than TCP, and systems other than Linux, are left alone.
func QuickACK(l net.Listener) net.Listener { return quickListener{l} }

type quickListener struct{ net.Listener }

func (l quickListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return quickACK(c), nil
}
