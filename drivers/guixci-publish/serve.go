package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/internal/avahi"
	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/storedb"
)

// publish serves until ctx ends.
func publish(ctx context.Context, o *options, stderr io.Writer) error {
	logger := o.logger(stderr)
	key, err := o.readKey()
	if err != nil {
		return err
	}
	l, err := listener(o)
	if err != nil {
		return err
	}
	if err := become(o.user, o.cache); err != nil {
		l.Close()
		return &cli.UsageError{Err: err}
	}
	src, err := openStore(o)
	if err != nil {
		l.Close()
		return err
	}
	defer src.Close()
	h := &substitute.Handler{
		Source: src, Key: key, Logger: logger, Compression: o.compression, TTL: o.ttl, NegativeTTL: o.negativeTTL,
		NarPath: o.narPath,
		Log:     substitute.LogDir(os.DirFS(logDirectory()), src),
	}
	stop, err := startCache(ctx, o, h)
	if err != nil {
		l.Close()
		return err
	}
	defer stop()
	if o.advertise {
		withdraw, err := advertise(ctx, l.Addr(), logger)
		if err != nil {
			l.Close()
			return &cli.UsageError{Err: err}
		}
		defer withdraw()
	}
	logger.Info("publishing", "address", l.Addr().String(), "store", src.String())
	s := &substitute.Server{Handler: h}
	if o.metrics {
		s.Root = withMetrics(h)
	}
	return s.Run(ctx, l)
}

// advertise lets Avahi announce the server as (guix scripts publish) does, until withdraw is called.
func advertise(ctx context.Context, address net.Addr, logger *slog.Logger) (withdraw func(), err error) {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("only a port can be advertised, not %s", address)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	service := avahi.Service{Name: "guix-publish-" + host, Type: "_guix_publish._tcp", Port: uint16(tcp.Port)}
	var running sync.WaitGroup
	running.Go(func() { avahi.Publish(ctx, service, logger) })
	return func() { cancel(); running.Wait() }, nil
}

func withMetrics(h *substitute.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		h.WriteMetrics(w) // an error means that the client left
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			mux.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func logDirectory() string {
	dir := os.Getenv("GUIX_LOG_DIRECTORY")
	if dir == "" {
		dir = "/var/log/guix"
	}
	return dir + "/drvs"
}

// startCache gives h a cache, if there is to be one. The caller calls stop at the end.
func startCache(ctx context.Context, o *options, h *substitute.Handler) (stop func(), err error) {
	if o.cache == "" {
		return func() {}, nil
	}
	if err := prepareCache(o.cache); err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	cache := &substitute.Cache{Dir: o.cache, Key: h.Key, Compression: o.compression}
	h.Baker = &substitute.Baker{Cache: cache, Source: h.Source, Workers: o.workers, Logger: h.Logger}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { h.Baker.Run(ctx) })
	running.Go(func() { evict(ctx, o, cache, h.Source, h.Logger) })
	return func() { cancel(); running.Wait() }, nil
}

// prepareCache makes the directory, which must be one that we can write to: else nothing would ever be baked.
func prepareCache(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return err
	}
	err = os.Remove(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // another process took it for one that was left
	}
	return errors.Join(err, f.Close())
}

// evictEvery is how often the cache is looked through.
const evictEvery = time.Hour

// evictions are what is to go, one after the other. Clients may believe for the TTL in what they were told. What the
// store has can be had from there all the while, so that this is what goes for the sake of the size.
func evictions(ctx context.Context, o *options, src substitute.Source) []substitute.EvictOptions {
	lately := min(o.ttl, 24*time.Hour)
	if o.cacheSize == 0 {
		return []substitute.EvictOptions{{MaxAge: o.ttl, Grace: lately, Keep: func(p substitute.StorePath) bool {
			_, err := src.Info(ctx, p.Hash())
			return !errors.Is(err, substitute.ErrNotFound)
		}}}
	}
	return []substitute.EvictOptions{
		{MaxSize: o.cacheSize, Grace: lately, Keep: func(p substitute.StorePath) bool {
			_, err := src.Info(ctx, p.Hash())
			return err != nil
		}},
		{MaxAge: o.ttl, MaxSize: o.cacheSize, Grace: o.ttl},
	}
}

// evict removes from the cache what has had its time, again and again; without limits, only what killed processes left.
func evict(ctx context.Context, o *options, cache *substitute.Cache, src substitute.Source, logger *slog.Logger) {
	for tick := time.NewTicker(evictEvery); ; {
		for _, options := range evictions(ctx, o, src) {
			done, err := cache.Evict(ctx, options)
			switch {
			case ctx.Err() != nil:
				tick.Stop()
				return
			case err != nil:
				logger.Error("evict", "error", err)
			case done.Items > 0:
				logger.Info("evicted", "items", done.Items, "bytes", done.Bytes, "left", done.LeftBytes)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// A localStore is the store of this machine: by its database, or by the daemon while
// that cannot be read.
type localStore struct {
	pool *store.Pool
	path string        // of the database
	wait time.Duration // until the next attempt to open it
	db   atomic.Pointer[storedb.DB]

	mu      sync.Mutex // guards opening and tried
	opening bool       // somebody is
	tried   time.Time
}

// databaseWait is short enough for a machine that has just started.
const databaseWait = 10 * time.Second

func openStore(o *options) (*localStore, error) {
	s := &localStore{pool: &store.Pool{}, path: o.database, wait: databaseWait}
	if err := s.open(); err != nil && o.database != "" {
		return nil, &cli.UsageError{Err: err}
	}
	return s, nil
}

// open opens the database, unless that was tried just now or somebody else is about to: the disk may be slow, and who
// waits for it should be one request and not all. Who may not write beside it cannot read it either, as long as
// nobody else has it open: SQLite then has to make a file. So it becomes readable when the daemon has a client.
func (s *localStore) open() error {
	s.mu.Lock()
	due := s.db.Load() == nil && !s.opening && (s.tried.IsZero() || time.Since(s.tried) >= s.wait)
	s.opening = s.opening || due
	s.mu.Unlock()
	if !due {
		return nil
	}
	db, err := storedb.Open(s.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening, s.tried = false, time.Now()
	if err == nil {
		s.db.Store(db)
	}
	return err
}

// database is nil while it cannot be read.
func (s *localStore) database() *storedb.DB {
	db := s.db.Load()
	if db == nil {
		s.open() // later, if it does not work
		db = s.db.Load()
	}
	return db
}

// Info asks the daemon only if the database is in trouble: what it does not
// know does not exist.
func (s *localStore) Info(ctx context.Context, hashPart string) (*substitute.Info, error) {
	db := s.database()
	if db == nil {
		return s.pool.Info(ctx, hashPart)
	}
	info, err := db.Info(ctx, hashPart)
	if err == nil || errors.Is(err, substitute.ErrNotFound) || ctx.Err() != nil {
		return info, err
	}
	if theirs, err := s.pool.Info(ctx, hashPart); err == nil || errors.Is(err, substitute.ErrNotFound) {
		return theirs, err
	}
	return nil, err
}

// WriteNAR does the same, as long as nothing has been written.
func (s *localStore) WriteNAR(ctx context.Context, w io.Writer, info *substitute.Info) error {
	db := s.db.Load()
	if db == nil {
		return s.pool.WriteNAR(ctx, w, info)
	}
	begun := &begunWriter{w: w}
	err := db.WriteNAR(ctx, begun, info)
	if err == nil || begun.begun || errors.Is(err, substitute.ErrNotFound) || ctx.Err() != nil {
		return err
	}
	if theirs := s.pool.WriteNAR(ctx, begun, info); theirs == nil || begun.begun || errors.Is(theirs, substitute.ErrNotFound) {
		return theirs
	}
	return err
}

// A begunWriter knows whether anything has been written.
type begunWriter struct {
	w     io.Writer
	begun bool
}

func (b *begunWriter) Write(p []byte) (int, error) {
	b.begun = true
	return b.w.Write(p)
}

func (s *localStore) String() string {
	if s.db.Load() == nil {
		return "guix-daemon"
	}
	return "database"
}

func (s *localStore) Close() error {
	err := s.pool.Close()
	if db := s.db.Load(); db != nil {
		err = errors.Join(err, db.Close())
	}
	return err
}

// become gives up the privileges that only reading the key and listening need. The directory of the cache, if there is to be
// one and it is missing, is made before, and is the user's.
func become(name, cache string) error {
	if name == "" {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	if _, err := os.Stat(cache); cache != "" && errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(os.MkdirAll(cache, 0o755), os.Chown(cache, uid, gid)); err != nil {
			return err
		}
	}
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("set user: %w", err)
	}
	return os.Setenv("HOME", u.HomeDir)
}

// firstFD is where the listening socket is when an init system passes it on, as
// systemd and Shepherd do.
const firstFD = 3

// passedListener is the socket that was passed on, or nil if none was.
func passedListener() (net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	if n := os.Getenv("LISTEN_FDS"); n != "1" {
		return nil, &cli.UsageError{Err: fmt.Errorf("%q sockets were passed on, want 1", n)}
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	f := os.NewFile(firstFD, "socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("use the socket that was passed on: %w", err)
	}
	return l, nil
}
