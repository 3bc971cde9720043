package guixci

import (
	"sync"
	"time"
)

// A batch passes on what it is given, much of it together when much comes in little time, and
// nothing later than longest after it came, whether more comes or not.
type batch[T any] struct {
	pass    func([]T) error
	most    int // are passed together
	longest time.Duration

	mu      sync.Mutex // guards what follows, and is held by pass
	waiting []T
	last    time.Time // when something was passed
	timer   *time.Timer
	err     error // the first of pass, which is not called again
}

// add takes v, and returns the error that pass had, also for what came before.
func (b *batch[T]) add(v T) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.waiting = append(b.waiting, v); {
	case len(b.waiting) >= b.most || time.Since(b.last) > b.longest:
		b.empty()
	case b.timer == nil:
		b.timer = time.AfterFunc(b.longest, func() { b.flush() })
	}
	return b.err
}

// flush passes what waits, and returns the error of pass. After the last add it leaves nothing behind.
func (b *batch[T]) flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.empty()
	return b.err
}

func (b *batch[T]) empty() {
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	if len(b.waiting) > 0 && b.err == nil {
		b.err = b.pass(b.waiting)
	}
	b.waiting, b.last = nil, time.Now()
}
