package substitute

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/genenetwork/guixci/substitute/nar"
)

// A download gets an archive from the places of an offer, one after the other.
type download struct {
	c       *Client
	offer   Offer
	places  int             // how many of the offer's sources has
	sources []source        // the addresses, in the order in which they are tried
	failed  map[string]bool // addresses that are no good
	why     []error
	gone    int // failures that were "no such item"

	current source // the last one tried
}

// A source is one address of an archive.
type source struct {
	place
	NarURL
}

func newDownload(c *Client, o *Offer) *download {
	d := &download{c: c, offer: *o, failed: make(map[string]bool)}
	d.offer.from = slices.Clone(o.from)
	return d
}

// close makes later questions go to the caches themselves if what they said
// did not help.
func (d *download) close() {
	if len(d.failed) == 0 {
		return
	}
	for _, p := range d.offer.from {
		p.cache.memory.forget(d.offer.StorePath.Hash())
	}
}

// A cache has one address for each compression, four at most. Nobody has signed them: of a narinfo
// with thousands the others do not keep us from the next cache, nor does one fill the log.
const (
	maxAddresses = 4
	maxAddress   = 4 << 10 // bytes
)

// candidates are the addresses that have not failed, best first.
func (d *download) candidates() (all []source) {
	for _, p := range d.offer.from[d.places:] {
		d.places++
		urls := slices.DeleteFunc(byCost(p.info.URLs, d.offer.NarSize, d.c.rate.get()), func(u NarURL) bool { return len(u.URL) > maxAddress })
		for _, u := range urls[:min(len(urls), maxAddresses)] {
			d.sources = append(d.sources, source{p, u})
		}
	}
	for _, s := range d.sources {
		if !d.failed[s.key()] {
			all = append(all, s)
		}
	}
	return all
}

func (s source) key() string { return s.cache.base.String() + " " + s.URL }

// host is where it leads to, "" if it may not.
func (s source) host() string {
	u, err := s.cache.resolve(s.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// errNotSigned says that an archive is not the one that was signed.
var errNotSigned = errors.New("not the archive that was signed")

// errOther says that two addresses have different archives, so that one cannot
// continue where the other stopped.
var errOther = errors.New("begins otherwise than what came from elsewhere")

// write writes the archive, and checks it. What one address began, another may
// continue. The error is errNotSigned if it is worth to begin again: another
// address may have a better archive.
func (d *download) write(ctx context.Context, w io.Writer) error {
	s := &splice{w: w, info: &d.offer.Info, sum: sha256.New()}
	other := make(map[string]bool) // not in this round
	for {
		next, ok := d.next(ctx, other)
		if !ok {
			return d.exhausted(ctx, len(other) > 0)
		}
		d.current = next
		err := d.from(ctx, s, next)
		switch {
		case err == nil:
			return nil
		case s.err != nil:
			return fmt.Errorf("write archive of %s: %w", d.offer.StorePath, s.err)
		case ctx.Err() != nil:
			return fmt.Errorf("fetch %s: %w", d.offer.StorePath, context.Cause(ctx))
		}
		d.c.Logger.WarnContext(ctx, "download failed", "item", string(d.offer.StorePath), "cache", next.cache.name, "url", next.URL, "error", err)
		if errors.Is(err, errOther) {
			other[next.key()] = true
			continue
		}
		d.reject(next, err)
		if errors.Is(err, errNotSigned) {
			return err
		}
	}
}

func (d *download) next(ctx context.Context, other map[string]bool) (source, bool) {
	for {
		for _, s := range d.candidates() {
			if !other[s.key()] {
				return s, true
			}
		}
		if !d.offer.more(ctx, d.c) {
			return source{}, false
		}
	}
}

// reject notes that an address is no good. If its server kept us waiting, neither are its others: each would take as long.
func (d *download) reject(s source, err error) {
	d.failed[s.key()] = true
	if slow := net.Error(nil); errors.As(err, &slow) && slow.Timeout() {
		for _, other := range d.sources {
			if other.cache == s.cache && other.host() == s.host() {
				d.failed[other.key()] = true
			}
		}
	}
	d.why = append(d.why, fmt.Errorf("%s: %w", s.cache.name, err))
	var status *statusError
	if errors.Is(err, fs.ErrNotExist) || errors.As(err, &status) && (status.code == http.StatusNotFound || status.code == http.StatusGone) {
		d.gone++
	}
}

// exhausted is the error when there is no address left.
func (d *download) exhausted(ctx context.Context, again bool) error {
	path := d.offer.StorePath
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("fetch %s: %w", path, context.Cause(ctx))
	case again:
		return fmt.Errorf("fetch %s: %w", path, errNotSigned)
	case d.gone == len(d.why):
		return fmt.Errorf("%w: no cache has %s any more", ErrNotFound, path)
	}
	return fmt.Errorf("fetch %s: %w", path, errors.Join(d.why...))
}

// from continues the archive from one address, to its end.
func (d *download) from(ctx context.Context, s *splice, at source) error {
	u, err := at.cache.resolve(at.URL)
	if err != nil {
		return err
	}
	limit := d.offer.NarSize + d.offer.NarSize/8 + 64<<10 // no method adds more
	b, err := openBody(ctx, at.cache, u, limit)
	if err != nil {
		return err
	}
	defer b.close()
	b.tell = d.teller(u.Redacted(), b.size)
	plain, err := decompress(at.Compression, b, d.offer.NarSize)
	if err != nil {
		return fmt.Errorf("decompress %s: %w", at.Compression, err)
	}
	defer plain.Close()
	s.rewind()
	start := time.Now()
	if _, err := io.Copy(s, plain); err != nil {
		return err
	}
	d.c.rate.add(b.off, time.Since(start))
	return s.verify()
}

// teller reports progress, not more often than people can see.
func (d *download) teller(url string, size int64) func(done, size int64) {
	if d.c.Progress == nil {
		return nil
	}
	const often = 200 * time.Millisecond
	last := time.Now()
	d.c.Progress(d.offer.StorePath, url, 0, size)
	return func(done, size int64) {
		if now := time.Now(); now.Sub(last) >= often || done == size {
			last = now
			d.c.Progress(d.offer.StorePath, url, done, size)
		}
	}
}

// A splice passes on an archive that comes in several attempts, each from its
// beginning. What has been passed on is not passed on again, but must be the same.
type splice struct {
	w    io.Writer
	info *Info
	sum  hash.Hash // of what has been passed on
	n    int64     // bytes of it
	err  error     // of w

	skip   int64     // bytes of this attempt to be compared, not passed on
	prefix hash.Hash // of those that came
}

// rewind begins an attempt.
func (s *splice) rewind() {
	s.skip = s.n
	if s.skip > 0 {
		s.prefix = sha256.New()
	}
}

func (s *splice) Write(p []byte) (int, error) {
	total := len(p)
	if s.skip > 0 {
		k := min(int64(len(p)), s.skip)
		s.prefix.Write(p[:k])
		p = p[k:]
		if s.skip -= k; s.skip == 0 && !bytes.Equal(s.prefix.Sum(nil), s.sum.Sum(nil)) {
			return 0, errOther
		}
	}
	if s.n+int64(len(p)) > s.info.NarSize {
		return 0, fmt.Errorf("%w: longer than %d bytes", errNotSigned, s.info.NarSize)
	}
	s.sum.Write(p)
	n, err := s.w.Write(p)
	s.n += int64(n)
	if err != nil {
		s.err = err
		return 0, err
	}
	return total, nil
}

// verify checks that the archive is whole and the right one.
func (s *splice) verify() error {
	switch {
	case s.skip > 0 || s.n < s.info.NarSize:
		return fmt.Errorf("archive ends after %d of %d bytes", s.n-s.skip, s.info.NarSize)
	case Hash(s.sum.Sum(nil)) != s.info.NarHash:
		return fmt.Errorf("%w: it has hash %v, not %v", errNotSigned, Hash(s.sum.Sum(nil)), s.info.NarHash)
	}
	return nil
}

// Restore fetches an item and makes its tree at path, as [nar.Restore] does. The tree is
// there while it is being made, and is removed again if it turns out not to be what
// was signed: use [Client.Fetch] unless nobody looks before Restore returns.
func (c *Client) Restore(ctx context.Context, o *Offer, path string, options *nar.RestoreOptions) error {
	if err := c.setup(); err != nil {
		return fmt.Errorf("fetch %s: %w", o.StorePath, err)
	}
	d := newDownload(c, o)
	defer d.close()
	for {
		err := d.restore(ctx, path, options)
		if !errors.Is(err, errNotSigned) {
			return err
		}
		if len(d.candidates()) == 0 && !d.offer.more(ctx, c) {
			return fmt.Errorf("fetch %s: %w", o.StorePath, errors.Join(d.why...))
		}
	}
}

// Archive fetches the archive of an item into memory, and returns it when all of it has been verified. It
// is for items of which NarSize says that they are small.
func (c *Client) Archive(ctx context.Context, o *Offer) ([]byte, error) {
	if err := c.setup(); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", o.StorePath, err)
	}
	d := newDownload(c, o)
	defer d.close()
	for {
		var b bytes.Buffer
		err := d.write(ctx, &b)
		if err == nil {
			return b.Bytes(), nil
		}
		if !errors.Is(err, errNotSigned) || len(d.candidates()) == 0 && !d.offer.more(ctx, c) {
			return nil, err
		}
	}
}

// errRestore ends a download whose archive could not be restored.
var errRestore = errors.New("archive cannot be restored")

// restore is one attempt at Restore. Its error is errNotSigned if another may
// be worth it.
func (d *download) restore(ctx context.Context, path string, options *nar.RestoreOptions) error {
	r, w := io.Pipe()
	fetched := make(chan error, 1)
	go func() {
		err := d.write(ctx, w)
		w.CloseWithError(err)
		fetched <- err
	}()
	in := bufio.NewReaderSize(r, 64<<10)
	err := nar.RestoreWith(in, path, options)
	if err == nil {
		if err = ended(in); err != nil {
			err = errors.Join(err, nar.Remove(path))
		}
	}
	r.CloseWithError(errRestore)
	failed := <-fetched
	switch {
	case err == nil:
		return nil
	case failed != nil && !errors.Is(failed, errRestore):
		return failed
	case errors.Is(err, nar.ErrFormat):
		// Known before the hash was: what comes is not even an archive.
		d.reject(d.current, err)
		return fmt.Errorf("%w: %v", errNotSigned, err)
	}
	return fmt.Errorf("fetch %s: %w", d.offer.StorePath, err)
}

// ended waits for the verdict about an archive that has been read.
func ended(in io.Reader) error {
	n, err := io.Copy(io.Discard, in)
	if err == nil && n > 0 {
		err = fmt.Errorf("%w: %d bytes follow it", nar.ErrFormat, n)
	}
	return err
}

// Fetch fetches an item and makes its tree at path, which must not exist. It appears
// there when all of it has been verified; before, it has another name in the same directory, ".fetch-" and
// something random. That is what a killed process leaves.
func (c *Client) Fetch(ctx context.Context, o *Offer, path string, options *nar.RestoreOptions) error {
	making := filepath.Join(filepath.Dir(path), ".fetch-"+rand.Text())
	if err := c.Restore(ctx, o, making, options); err != nil {
		return err
	}
	_, err := os.Lstat(path)
	if err == nil {
		err = fs.ErrExist
	} else if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(making, path)
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", o.StorePath, errors.Join(err, nar.Remove(making)))
	}
	return nil
}
