// Package buffer has buffers for archives on their way to clients, of whom many may be slow.
package buffer

import "sync"

const (
	// small is what a slow client costs, besides its connection.
	small = 8 << 10
	// large is what makes few system calls. A few clients can have one, fast or not.
	large = 128 << 10
)

var (
	smalls = sync.Pool{New: func() any { return new([small]byte) }}
	larges = sync.Pool{New: func() any { return new([large]byte) }}
	inUse  = make(chan struct{}, 32) // large ones
)

// Get returns a large buffer if few are in use, else a small one. The caller has to call release when it needs it no
// more.
func Get() (buf []byte, release func()) {
	select {
	case inUse <- struct{}{}:
		b := larges.Get().(*[large]byte)
		return b[:], func() { larges.Put(b); <-inUse }
	default:
		b := smalls.Get().(*[small]byte)
		return b[:], func() { smalls.Put(b) }
	}
}
