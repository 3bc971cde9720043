package substitute

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/genenetwork/guixci/internal/buffer"
	"github.com/genenetwork/guixci/substitute/nar"
)

const narType = "application/x-nix-archive"

// serveNAR sends the archive of the item called base. An item of that hash but
// another name does not count.
func (h *Handler) serveNAR(w http.ResponseWriter, r *http.Request, c Compression, base string) {
	if h.sendBaked(w, r, c, base) {
		return
	}
	info, err := h.item(r.Context(), base)
	if err == nil && !c.known() {
		err = fmt.Errorf("%w: no compression %q", ErrNotFound, c.Method)
	}
	switch {
	case err != nil:
		h.failed(w, r, err)
	case c.Method == "none":
		h.servePlain(w, r, info)
	case r.Method == http.MethodHead:
		w.Header().Set("Content-Type", narType)
		w.Header().Set("ETag", madeTag(c, info))
	case info.NarSize > smallNAR:
		h.serveSpooled(w, r, c, info)
	default:
		h.serveSmall(w, r, c, info)
	}
}

// madeTag is for what is compressed on demand: always the same archive, perhaps in other bytes, so that no part of one
// goes with a part of another.
func madeTag(c Compression, info *Info) string {
	return `W/"` + EncodeBase32(info.NarHash[:]) + "-" + c.Method + `"`
}

// sendBaked sends an archive as it is in the cache, if it is there.
func (h *Handler) sendBaked(w http.ResponseWriter, r *http.Request, c Compression, base string) bool {
	cache := h.baked()
	if cache == nil {
		return false
	}
	path, err := parseBase(base)
	if err != nil {
		return false
	}
	f, err := cache.open(path, c.Method)
	if errors.Is(err, ErrNotFound) {
		// By a crash, or somebody's hand.
		if n := cache.missed(path, c.Method); n != nil && h.Baker != nil {
			h.Baker.Want(&n.Info)
		}
	}
	if err != nil {
		return false // also if it cannot be read: the Source may have it
	}
	defer f.Close()
	n, err := cache.load(path.Hash())
	if err != nil || n.StorePath != path {
		return false
	}
	file, err := f.Stat()
	if err != nil {
		return false
	}
	h.metrics.baked.Add(1)
	cacheFor(w, h.TTL)
	w.Header().Set("Content-Type", "application/octet-stream")
	// Baked at another level, it is another file: one must not be continued with the other.
	w.Header().Set("ETag", fmt.Sprintf(`"%s-%s-%d-%x"`, EncodeBase32(n.NarHash[:]), c.Method, file.Size(), file.ModTime().UnixNano()))
	http.ServeContent(&countedResponse{w, &h.metrics.bytes}, r, "", time.Time{}, f)
	return true
}

// servePlain sends an archive as it is, or a part of it.
func (h *Handler) servePlain(w http.ResponseWriter, r *http.Request, info *Info) {
	h.metrics.plain.Add(1)
	tag := `"` + EncodeBase32(info.NarHash[:]) + `"`
	w.Header().Set("ETag", tag)
	w.Header().Set("Accept-Ranges", "bytes")
	part, ok := wanted(r, tag, info.NarSize)
	if !ok {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", info.NarSize))
		fail(w, r, http.StatusRequestedRangeNotSatisfiable, "No such range")
		return
	}
	partial := part.left < info.NarSize
	if partial {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.skip, part.skip+part.left-1, info.NarSize))
	}
	h.stream(w, r, narType, part.left, partial, func(held io.Writer) error {
		part.w = held
		return h.writeNAR(r.Context(), &part, info)
	})
}

// wanted is the part that a request wants of size bytes; ok is false if they have no such part. What is not the Range of
// one part is answered with the whole, as is allowed, and those of HEAD must be.
func wanted(r *http.Request, etag string, size int64) (part partWriter, ok bool) {
	whole := partWriter{left: size}
	spec, isRange := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	from, to, isPart := strings.Cut(spec, "-")
	if since := r.Header.Get("If-Range"); r.Method != http.MethodGet || !isRange || !isPart || since != "" && since != etag {
		return whole, true
	}
	first, err1 := strconv.ParseUint(from, 10, 63)
	last, err2 := strconv.ParseUint(to, 10, 63)
	switch {
	case from == "" && err2 == nil: // so many at the end
		n := min(int64(last), size)
		return partWriter{skip: size - n, left: n}, n > 0
	case err1 != nil || to != "" && (err2 != nil || last < first):
		return whole, true
	case int64(first) >= size:
		return whole, false
	case to == "":
		last = uint64(size) - 1
	}
	return partWriter{skip: int64(first), left: min(int64(last), size-1) + 1 - int64(first)}, true
}

// A partWriter passes on some of the bytes.
type partWriter struct {
	w          io.Writer
	skip, left int64
}

func (p *partWriter) Write(b []byte) (int, error) {
	k := min(int64(len(b)), p.skip)
	p.skip -= k
	some := b[k:][:min(int64(len(b))-k, p.left)]
	if len(some) > 0 {
		n, err := p.w.Write(some)
		p.left -= int64(n)
		if err != nil {
			return int(k) + n, err
		}
	}
	return len(b), nil
}

// smallNAR is the size up to which an archive is compressed before any of it is sent. What cannot be compressed
// becomes longer, and has to fit as well: the encoder would else wait for the client.
const smallNAR = heldBytes - heldBytes/8

// serveSmall compresses an archive that fits into a buffer.
func (h *Handler) serveSmall(w http.ResponseWriter, r *http.Request, c Compression, info *Info) {
	h.metrics.compressed.Add(1)
	w.Header().Set("ETag", madeTag(c, info))
	release, err := h.spools.encoder(r.Context())
	if err != nil {
		h.failed(w, r, err)
		return
	}
	var once sync.Once
	defer once.Do(release)
	h.stream(w, r, narType, -1, false, func(held io.Writer) error {
		err := c.quickly().through(held, info.NarSize, func(w io.Writer) error { return h.writeNAR(r.Context(), w, info) })
		once.Do(release)
		return err
	})
}

// item finds the item that is called base, in the store or, in whatever form, in the cache: its narinfo may offer an
// archive that has to be made of another.
func (h *Handler) item(ctx context.Context, base string) (*Info, error) {
	path, err := parseBase(base)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNotFound, err)
	}
	info, err := h.info(ctx, path.Hash())
	if cache := h.baked(); cache != nil && errors.Is(err, ErrNotFound) {
		info, err = cache.Info(ctx, path.Hash())
	}
	if err != nil {
		return nil, err
	}
	if info.StorePath != path {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, base)
	}
	return info, nil
}

// writeNAR writes an item's archive, and fails unless it is the one that was
// registered.
func (h *Handler) writeNAR(ctx context.Context, w io.Writer, info *Info) error {
	c := checker{w: w, info: info, sum: sha256.New()}
	err := h.Source.WriteNAR(ctx, &c, info)
	if cache := h.baked(); cache != nil && errors.Is(err, ErrNotFound) && c.n == 0 {
		err = cache.WriteNAR(ctx, &c, info)
	}
	if err != nil {
		return err
	}
	return c.verify()
}

// stream sends what write writes, size bytes, or -1 if that is not known. The
// last bytes leave only when write has succeeded. When it fails, the client gets
// a status if nothing was sent yet, else the connection is cut.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, contentType string, size int64, partial bool, write func(io.Writer) error) {
	w.Header().Set("Content-Type", contentType)
	if size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	if r.Method == http.MethodHead {
		return
	}
	held := newHeldWriter(&countedResponse{w, &h.metrics.bytes}, size)
	held.partial = partial
	defer held.release()
	err := write(held)
	if err == nil {
		err = held.finish(size < 0)
	}
	switch {
	case err == nil:
	case held.sent:
		if !errors.Is(err, errClientLeft) {
			h.report(r, err)
		}
		panic(http.ErrAbortHandler)
	default:
		h.failed(w, r, err)
	}
}

// A heldWriter holds back the last bytes of a response, at least one, until it
// is told to finish. A response that fits into it entirely is sent with its
// length.
type heldWriter struct {
	w       http.ResponseWriter
	buf     []byte
	release func() // gives back buf
	sent    bool   // something left

	partial bool // the response is a part of what there is
}

// heldBytes is room for most archives: half of those in a store are smaller
// than 25 KB, uncompressed. What does not fit anyway holds less for each slow client.
const heldBytes = 64 << 10

var heldBuffers = sync.Pool{New: func() any { return new([heldBytes]byte) }}

// newHeldWriter is for a response of that size, -1 if it is not known. The caller has to call release.
func newHeldWriter(w http.ResponseWriter, size int64) *heldWriter {
	if size > heldBytes {
		buf, release := buffer.Get()
		return &heldWriter{w: w, buf: buf[:0], release: release}
	}
	buf := heldBuffers.Get().(*[heldBytes]byte)
	return &heldWriter{w: w, buf: buf[:0], release: func() { heldBuffers.Put(buf) }}
}

func (h *heldWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if len(h.buf) == cap(h.buf) {
			if err := h.flush(); err != nil {
				return total - len(p), err
			}
		}
		n := copy(h.buf[len(h.buf):cap(h.buf)], p)
		h.buf = h.buf[:len(h.buf)+n]
		p = p[n:]
	}
	return total, nil
}

// errClientLeft marks errors of the connection: nobody is to blame here.
var errClientLeft = errors.New("client left")

func (h *heldWriter) flush() error {
	if !h.sent && h.partial {
		h.w.WriteHeader(http.StatusPartialContent)
	}
	h.sent = true
	_, err := h.w.Write(h.buf)
	h.buf = h.buf[:0]
	if err != nil {
		return fmt.Errorf("%w: %v", errClientLeft, err)
	}
	return nil
}

func (h *heldWriter) finish(setLength bool) error {
	if !h.sent && setLength {
		h.w.Header().Set("Content-Length", strconv.Itoa(len(h.buf)))
	}
	return h.flush()
}

// serveFile sends the contents of the fixed-output file called name whose
// SHA-256 is given in nix-base32: this is how Guix asks for sources that have
// vanished from where they were.
func (h *Handler) serveFile(w http.ResponseWriter, r *http.Request, name, digits string) {
	contents, err := ParseHash(hashPrefix + digits)
	var path StorePath
	if err == nil {
		path, err = flatPath(name, contents)
	}
	if err != nil {
		notFound(w, r)
		return
	}
	info, err := h.item(r.Context(), path.Base())
	if err != nil {
		h.failed(w, r, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	archive, done := h.pipeNAR(ctx, info)
	defer func() {
		cancel()
		archive.Close()
		<-done
	}()
	h.sendFile(w, r, archive, contents)
}

// pipeNAR lets an archive be read. Done is closed when nothing runs any more,
// which closing the reader brings about.
func (h *Handler) pipeNAR(ctx context.Context, info *Info) (r *io.PipeReader, done <-chan struct{}) {
	r, w := io.Pipe()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		w.CloseWithError(h.writeNAR(ctx, w, info))
	}()
	return r, finished
}

// sendFile sends the single file of archive, if its contents are those asked for.
func (h *Handler) sendFile(w http.ResponseWriter, r *http.Request, archive io.Reader, contents Hash) {
	nr := nar.NewReader(archive)
	hdr, err := nr.Next()
	if err == nil && hdr.Mode != nar.ModeRegular {
		err = fmt.Errorf("%w: not a regular file", ErrNotFound)
	}
	if err != nil {
		h.failed(w, r, err)
		return
	}
	h.stream(w, r, "application/octet-stream", hdr.Size, false, func(held io.Writer) error {
		sum := sha256.New()
		buf, release := buffer.Get()
		defer release()
		if _, err := io.CopyBuffer(io.MultiWriter(sum, held), nr, buf); err != nil {
			return err
		}
		if Hash(sum.Sum(nil)) != contents {
			return fmt.Errorf("contents have another hash than %v", contents)
		}
		_, err := nr.Next()
		if err != io.EOF {
			return fmt.Errorf("end of archive: %v", err)
		}
		return nil
	})
}
