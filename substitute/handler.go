package substitute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Handler serves a Source to guix-daemon and "guix substitute", under the same
// addresses as guix publish:
//
//	/nix-cache-info
//	/HASH.narinfo                what is known of an item, signed
//	/nar/gzip/HASH-NAME          its archive, see NarPath; also lzip, zstd, and none without a method
//	/file/NAME/sha256/BASE32     the contents of a fixed-output file, a download
//	/log/HASH-NAME               the log of its build, see Log
//	/signing-key.pub             to be given to "guix archive --authorize"
//	/                            a page for people
//
// An archive of the Source is hashed while it is sent. If it turns out not to be what the
// narinfo says, the client gets an error, or for a larger one a connection that
// breaks before the end: never a whole response with a wrong byte in it. One of the Cache was
// hashed when it was added, and is sent unread.
//
// Fields must not change after the first request.
type Handler struct {
	Source Source // required

	// Key signs. With nil narinfos are unsigned; clients then take archives
	// from here only if they have the signature from elsewhere.
	Key *PrivateKey
	// Logger hears of failures of the Source; nil discards.
	Logger *slog.Logger
	// Compression is what narinfos offer, in this order; nil means
	// [DefaultCompressions]. If neither gzip nor none is among them, gzip is
	// added: clients crash on an offer of which they can read nothing.
	Compression []Compression
	// NarPath is where archives are, like "substitutes/nars", without regard to slashes at its ends; ""
	// means "nar". A proxy may want to tell them from the rest. The files of the Cache do not
	// depend on it.
	NarPath string
	// TTL is for how long clients may remember an answer, and NegativeTTL that
	// there is none. Zero leaves it to them: 36 hours and 2 minutes.
	TTL, NegativeTTL time.Duration
	// Cache, if not nil, has archives that are compressed already. They are sent as they
	// are; what another key has signed is signed anew. nil means the Baker's, which it must be if there is a Baker.
	Cache *Cache
	// Baker, if not nil, compresses what was asked for, for the next time. Somebody else
	// has to call its Run.
	Baker *Baker
	// Encoders is how many archives are compressed at a time, apart from the
	// Baker; 0 means twice the number of processors. Who comes later waits.
	Encoders int
	// Spool is the directory for what was compressed for clients that are slower
	// than we, at most SpoolBytes; "" is that for temporary files, and 0 means 4 GiB. What does not fit is
	// sent no faster than its clients take it, a few archives at a time. Its files have no names and vanish with the
	// process.
	Spool      string
	SpoolBytes int64
	// Log finds the log of the build that made an item, or of a derivation's. For
	// an item without one it returns an error for which
	// errors.Is(err, [ErrNotFound]). With nil there are no logs. See [LogDir].
	Log func(ctx context.Context, item StorePath) (*BuildLog, error)

	init    sync.Once
	offered []Compression // Compression, completed
	host    string        // for signatures
	narPath []string      // NarPath, in parts
	narURL  string        // what the URLs of archives begin with
	cache   narinfoCache
	spools  spools
	metrics metrics
}

func (h *Handler) setup() {
	if h.Logger == nil {
		h.Logger = slog.New(slog.DiscardHandler)
	}
	h.offered = offers(h.Compression)
	host, err := os.Hostname()
	if err != nil || strings.ContainsAny(host, ";\n") {
		host = "localhost"
	}
	h.host = host
	h.narPath = parts(h.NarPath)
	if len(h.narPath) == 0 {
		h.narPath = []string{"nar"}
	}
	for _, part := range h.narPath {
		h.narURL += escape(part) + "/"
	}
	h.spools.start(h.Spool, h.SpoolBytes, h.Encoders)
}

func offers(wanted []Compression) []Compression {
	if len(wanted) == 0 {
		return DefaultCompressions
	}
	var offered []Compression
	readable := false
	for _, c := range wanted {
		if c.known() {
			offered = append(offered, c)
			readable = readable || c.Method != "zstd"
		}
	}
	if !readable {
		offered = append(offered, Compression{Method: "gzip"})
	}
	return offered
}

// ServeHTTP answers GET and HEAD.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.init.Do(h.setup)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, r, http.StatusMethodNotAllowed, "Only GET and HEAD")
		return
	}
	h.route(w, r, parts(r.URL.Path))
}

// parts are those of a path that are not empty.
func parts(path string) (all []string) {
	for part := range strings.SplitSeq(path, "/") {
		if part != "" {
			all = append(all, part)
		}
	}
	return all
}

// route knows the addresses; empty parts of path do not count.
func (h *Handler) route(w http.ResponseWriter, r *http.Request, path []string) {
	if len(path) == 0 {
		h.serveIndex(w, r)
		return
	}
	last := path[len(path)-1]
	switch first := path[0]; {
	case len(path) == 1 && first == "index.html":
		h.serveIndex(w, r)
	case len(path) == 1 && first == "nix-cache-info":
		send(w, r, textType, []byte(cacheInfo))
	case len(path) == 1 && first == "signing-key.pub" && h.Key != nil:
		send(w, r, textType, []byte(h.Key.Public().String()))
	case len(path) == 1 && strings.HasSuffix(first, ".narinfo"):
		h.serveNarInfo(w, r, strings.TrimSuffix(first, ".narinfo"))
	case h.isNAR(path, 1):
		h.serveNAR(w, r, Compression{Method: "none"}, last)
	case h.isNAR(path, 2):
		h.serveNAR(w, r, h.configured(path[len(path)-2]), last)
	case len(path) == 4 && first == "file" && path[2] == "sha256":
		h.serveFile(w, r, path[1], last)
	case len(path) == 2 && first == "log" && h.Log != nil:
		h.serveLog(w, r, last)
	default:
		notFound(w, r)
	}
}

// isNAR reports whether path is NarPath and that many parts more.
func (h *Handler) isNAR(path []string, more int) bool {
	n := len(h.narPath)
	return len(path) == n+more && slices.Equal(path[:n], h.narPath)
}

// configured is the compression called method, with the level it was given.
// All that are known are served: a client may remember older offers.
func (h *Handler) configured(method string) Compression {
	for _, c := range h.offered {
		if c.Method == method {
			return c
		}
	}
	return Compression{Method: method}
}

func (h *Handler) serveNarInfo(w http.ResponseWriter, r *http.Request, hashPart string) {
	n, err := h.lookup(r.Context(), hashPart)
	if err == nil {
		h.metrics.narinfos.Add(1)
		cacheFor(w, h.TTL)
		w.Header().Set("ETag", n.tag)
		if r.Header.Get("If-None-Match") == n.tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		send(w, r, narinfoType, n.text)
		return
	}
	if errors.Is(err, ErrNotFound) {
		h.metrics.missing.Add(1)
		cacheFor(w, h.NegativeTTL)
	}
	h.failed(w, r, err)
}

const narinfoType = "application/x-nix-narinfo;charset=utf-8"

// baked returns where archives are that were compressed before; nil is nowhere.
func (h *Handler) baked() *Cache {
	if h.Cache == nil && h.Baker != nil {
		return h.Baker.Cache
	}
	return h.Cache
}

// lookup finds the narinfo of an item, baked or not.
func (h *Handler) lookup(ctx context.Context, hashPart string) (*NarInfo, error) {
	if cache := h.baked(); cache != nil {
		n, err := cache.load(hashPart)
		if err == nil {
			cache.use(hashPart, time.Now())
			n, err = h.signed(n)
		}
		if err == nil {
			return n.at(h.narURL), nil
		}
		if !errors.Is(err, ErrNotFound) {
			h.Logger.ErrorContext(ctx, "read cache", "error", err)
		}
	}
	info, err := h.info(ctx, hashPart)
	if err != nil {
		return nil, err
	}
	if h.Baker != nil {
		h.Baker.Want(info)
	}
	return h.narinfo(info)
}

// signed returns a narinfo of the cache, signed with the Handler's key if it has another signature. The Baker
// writes that down.
func (h *Handler) signed(n *NarInfo) (*NarInfo, error) {
	if n.signedBy(h.Key) {
		return n, nil
	}
	if h.Baker != nil {
		h.Baker.Want(&n.Info)
	}
	return NewNarInfo(&n.Info, h.Key, h.host, n.URLs)
}

// info asks the Source, except for what no store has, and does not pass on what
// it was not asked.
func (h *Handler) info(ctx context.Context, hashPart string) (*Info, error) {
	if len(hashPart) != hashPartLen || !isBase32(hashPart) {
		return nil, fmt.Errorf("%w: %q is no hash part", ErrNotFound, hashPart)
	}
	info, err := h.Source.Info(ctx, hashPart)
	if err != nil {
		return nil, err
	}
	if info.StorePath.Hash() != hashPart {
		return nil, fmt.Errorf("asked for %s, source answers about %s", hashPart, info.StorePath)
	}
	return info, nil
}

// narinfo signs what is known of an item, unless that was done before.
func (h *Handler) narinfo(info *Info) (*NarInfo, error) {
	if n := h.cache.get(info); n != nil {
		return n, nil
	}
	n, err := NewNarInfo(info, h.Key, h.host, h.urls(info))
	if err == nil {
		h.cache.put(n)
	}
	return n, err
}

// urls lists where to get an item. Sizes are known only for archives sent as
// they are, and must be given for all or none.
func (h *Handler) urls(info *Info) []NarURL {
	base := escape(info.StorePath.Base())
	plain := NarURL{URL: h.narURL + base, Compression: "none", FileSize: info.NarSize}
	if isCompressed(string(info.StorePath)) {
		return []NarURL{plain}
	}
	var urls []NarURL
	for _, c := range h.offered {
		if c.Method == "none" {
			urls = append(urls, plain)
		} else {
			urls = append(urls, NarURL{URL: h.narURL + c.Method + "/" + base, Compression: c.Method, FileSize: -1})
		}
	}
	return urls
}

// escape percent-encodes as uri-encode of (web uri) does: all but letters,
// digits and "-._~".
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; isAlnum(c) || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// cacheInfo is what a cache says about itself.
const cacheInfo = "StoreDir: " + StoreDir + "\nWantMassQuery: 0\nPriority: 100\n"

const textType = "text/plain;charset=utf-8"

// send sends a response that is at hand.
func send(w http.ResponseWriter, r *http.Request, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		w.Write(body) // an error means that the client left
	}
}

func cacheFor(w http.ResponseWriter, ttl time.Duration) {
	if ttl > 0 {
		w.Header().Set("Cache-Control", "max-age="+strconv.FormatInt(int64(ttl/time.Second), 10))
	}
}

func notFound(w http.ResponseWriter, r *http.Request) {
	fail(w, r, http.StatusNotFound, "Resource not found")
}

func fail(w http.ResponseWriter, r *http.Request, status int, phrase string) {
	body := phrase + ": " + r.URL.Path
	for _, name := range []string{"ETag", "Accept-Ranges"} {
		w.Header().Del(name)
	}
	if status != http.StatusRequestedRangeNotSatisfiable { // which says what there is
		w.Header().Del("Content-Range")
	}
	w.Header().Set("Content-Type", textType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write([]byte(body)) // an error means that the client left
	}
}

// failed answers a request for which there is err.
func (h *Handler) failed(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, ErrNotFound) {
		notFound(w, r)
		return
	}
	h.metrics.failed.Add(1)
	h.report(r, err)
	w.Header().Set("Retry-After", "5")
	fail(w, r, http.StatusServiceUnavailable, "Store not available")
}

// report logs err, unless it only is that the client left.
func (h *Handler) report(r *http.Request, err error) {
	if r.Context().Err() == nil {
		h.Logger.ErrorContext(r.Context(), "answer request", "path", r.URL.Path, "error", err)
	}
}

const indexPage = `<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Substitutes for GNU Guix</title></head>
<body>
<h1>Substitutes for GNU Guix</h1>
<p>This server offers store items to <code>guix</code>. To use it, authorize
<a href="/signing-key.pub">its key</a> with <code>guix archive --authorize</code> and add its address
to <code>--substitute-urls</code>. See the node “Substitutes” of the manual.</p>
</body>
</html>
`

func (h *Handler) serveIndex(w http.ResponseWriter, r *http.Request) {
	send(w, r, "text/html;charset=utf-8", []byte(indexPage))
}
