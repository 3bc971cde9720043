package substitute

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Several clients, each at its own pace, get the same of an archive, whatever of it fits into the file. When all have
// gone nothing of it is left.
func TestSpoolPastFile(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, lastBytes, lastBytes + 1, 1000, 200_000} {
		for _, limit := range []int64{1, lastBytes - 1, lastBytes, 500, 50_000, 2 << 20} {
			archive := make([]byte, size)
			for i := range archive {
				archive[i] = byte(random.Uint32())
			}
			sent, left := spooled(t, archive, limit, random)
			for i, got := range sent {
				if !bytes.Equal(got, archive) {
					t.Errorf("%d bytes, limit %d: client %d has got %d others", size, limit, i, len(got))
				}
			}
			if left != 0 {
				t.Errorf("%d bytes, limit %d: %d bytes are left", size, limit, left)
			}
		}
	}
}

// spooled is what three clients get of an archive, and how many bytes are in files in the end.
func spooled(t *testing.T, archive []byte, limit int64, random *rand.Rand) (sent [3][]byte, left int64) {
	t.Helper()
	var s spools
	s.start(t.TempDir(), limit, 1)
	all := make(chan struct{})
	write := func(ctx context.Context, w io.Writer) error {
		<-all
		for rest := archive; len(rest) > 0; {
			n := min(1+random.IntN(10_000), len(rest))
			if _, err := w.Write(rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
			if _, _, held := s.state(); held > limit {
				t.Errorf("%d bytes in files, want no more than %d", held, limit)
			}
		}
		return nil
	}
	var clients sync.WaitGroup
	for i := range sent {
		sp, at, err := s.get(spoolKey{path: "one"}, write)
		if err != nil {
			t.Fatal(err)
		}
		clients.Go(func() {
			defer s.put(sp, at)
			// A pipe has no room: the others take over only where this one has read.
			r, w := io.Pipe()
			go func() { w.CloseWithError(sp.sendTo(t.Context(), w, at)) }()
			var b bytes.Buffer
			if _, err := io.CopyBuffer(struct{ io.Writer }{&b}, r, make([]byte, 1+i*1000)); err != nil {
				t.Error(err)
			}
			sent[i] = b.Bytes()
		})
	}
	close(all)
	clients.Wait()
	_, _, left = s.state()
	return sent, left
}

// A client that leaves does not keep the others waiting, and the last one ends the compressing.
func TestSpoolPastFileLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s spools
		s.start(t.TempDir(), 1000, 1)
		written, begin := make(chan error, 1), make(chan struct{})
		write := func(ctx context.Context, w io.Writer) (err error) {
			<-begin // once both are there
			for err == nil {
				_, err = w.Write(make([]byte, 300))
			}
			written <- err
			return err
		}
		key := spoolKey{path: "one"}
		sp, stalled, err := s.get(key, write)
		if err != nil {
			t.Fatal(err)
		}
		same, reading, err := s.get(key, write)
		if err != nil || same != sp {
			t.Fatalf("not the same: %v", err)
		}
		close(begin)
		n := 0
		left := make(chan error)
		go func() {
			left <- sp.sendTo(t.Context(), writerTo(func(p []byte) error {
				if n += len(p); n > 1_000_000 {
					return errors.New("left")
				}
				return nil
			}), reading)
		}()
		synctest.Wait()
		if n == 0 || n > 1300 {
			t.Errorf("%d bytes are sent while somebody is stalled", n)
		}
		if _, _, err := s.get(key, write); !errors.Is(err, errSpoolFull) {
			t.Errorf("somebody begins with what is gone: %v", err)
		}
		s.put(sp, stalled)
		if err := <-left; !errors.Is(err, errClientLeft) {
			t.Errorf("error %v", err)
		}
		s.put(sp, reading)
		if err := <-written; !errors.Is(err, context.Canceled) {
			t.Errorf("compressing ended with %v", err)
		}
		if inUse, _, bytes := s.state(); inUse != 0 || bytes != 0 {
			t.Errorf("%d encoders, %d bytes are left", inUse, bytes)
		}
	})
}

// While as many as may go on past their files do so, others that have begun wait for a while, and none begins.
func TestSpoolNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s spools
		s.start(t.TempDir(), 1000, 1)
		begin := make(chan struct{})
		sp, at, err := s.get(spoolKey{path: "one"}, func(ctx context.Context, w io.Writer) error {
			<-begin
			_, err := w.Write(make([]byte, 5000))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		s.narrow <- struct{}{}
		if _, _, err := s.get(spoolKey{path: "two"}, nil); !errors.Is(err, errSpoolFull) {
			t.Errorf("another begins: %v", err)
		}
		start := time.Now()
		close(begin)
		err = sp.sendTo(t.Context(), io.Discard, at)
		if took := time.Since(start); !errors.Is(err, errSpoolFull) || took != narrowWait {
			t.Errorf("%v after %v", err, took)
		}
		s.put(sp, at)
		if inUse, _, bytes := s.state(); inUse != 1 || bytes != 0 {
			t.Errorf("%d encoders, %d bytes are left", inUse, bytes)
		}
	})
}

type writerTo func([]byte) error

func (f writerTo) Write(p []byte) (int, error) { return len(p), f(p) }

// Those who want the same archive at the same time share it, and it is compressed once.
func TestSpoolShared(t *testing.T) {
	var s spools
	s.start(t.TempDir(), 0, 2)
	key := spoolKey{path: "one"}
	var times atomic.Int64
	both := make(chan struct{})
	write := func(ctx context.Context, w io.Writer) error {
		times.Add(1)
		<-both
		_, err := io.WriteString(w, "an archive")
		return err
	}
	first, at, err := s.get(key, write)
	if err != nil {
		t.Fatal(err)
	}
	second, at2, err := s.get(key, write)
	if err != nil {
		t.Fatal(err)
	}
	close(both)
	for i, user := range []*int64{at, at2} {
		var got bytes.Buffer
		if err := []*spool{first, second}[i].sendTo(t.Context(), &got, user); err != nil || got.String() != "an archive" {
			t.Errorf("got %q, %v", &got, err)
		}
	}
	if first != second || times.Load() != 1 {
		t.Errorf("compressed %d times", times.Load())
	}
	s.put(first, at)
	s.put(second, at2)
	if s.bytes.Load() != 0 || len(s.all) != 0 {
		t.Errorf("%d bytes are left of %d archives", s.bytes.Load(), len(s.all))
	}
}

// The end of an archive that turns out to be wrong has not left: no client can take what it has for the whole.
func TestSpoolHoldsTheEnd(t *testing.T) {
	const size, end = 256 << 10, 16
	var s spools
	s.start(t.TempDir(), 0, 1)
	most := make(chan struct{})
	wrong := errors.New("not the archive that is registered")
	sp, at, err := s.get(spoolKey{path: "one"}, func(ctx context.Context, w io.Writer) error {
		if _, err := w.Write(make([]byte, size)); err != nil {
			return err
		}
		<-most
		return wrong
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.put(sp, at)
	got := 0
	err = sp.sendTo(t.Context(), writerTo(func(p []byte) error {
		if got += len(p); got >= size-end {
			close(most)
		}
		return nil
	}), at)
	if !errors.Is(err, wrong) || got != size-end {
		t.Errorf("%d of %d bytes have left, %v", got, size, err)
	}
}

// A client that leaves early takes nothing from those who come after it: they share what is being compressed for others.
func TestSpoolSharedAfterLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{Source: blocked{}, Spool: t.TempDir()}
		h.init.Do(h.setup)
		info := &Info{StorePath: StoreDir + "/00000000000000000000000000000000-item", NarSize: 1 << 20}
		serve := func(ctx context.Context) {
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
			h.serveSpooled(httptest.NewRecorder(), r, Compression{Method: "zstd"}, info)
		}
		ctx, leave := context.WithCancel(t.Context())
		var patient sync.WaitGroup
		patient.Go(func() { serve(ctx) })
		synctest.Wait()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		serve(gone)
		if n := len(h.spools.all); n != 1 {
			t.Errorf("%d archives can be shared, want 1", n)
		}
		leave()
		patient.Wait()
		if n := len(h.spools.all); n != 0 {
			t.Errorf("%d archives are left", n)
		}
	})
}

// A blocked source has archives that never come.
type blocked struct{ Source }

func (blocked) WriteNAR(ctx context.Context, _ io.Writer, _ *Info) error {
	<-ctx.Done()
	return ctx.Err()
}
