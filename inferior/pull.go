package inferior

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/filelock"
)

// A Puller makes profiles with "guix pull" and keeps them in a directory of its own.
// Its fields must not change after the first call; methods may be called
// concurrently, and by several processes on the same directories.
type Puller struct {
	// Guix is the program that pulls; empty means guix in PATH.
	Guix string
	// Dir is where the profiles are; required. It must be readable by
	// guix-daemon, which follows the links in it to keep the profiles from
	// being collected.
	Dir string
	// CacheDir holds what Guix keeps between pulls: checkouts and the
	// commits it has authenticated, which are trusted from then on. It must
	// belong to the user and be writable by nobody else. Empty means
	// DIR/.cache. HOME is inside it too, so nothing outside is touched.
	CacheDir string
	// Args are further options of guix pull, such as --no-substitutes, --cores=2.
	Args []string
	// Env is the environment to start from, as in [exec.Cmd]; nil means ours.
	Env []string
	// Log, if not nil, gets what guix pull prints, as it comes, one write
	// at a time.
	Log io.Writer
	// Memory is how many bytes guix pull and its children may occupy together
	// before they are killed, as with [Options]; 0 means any number. What guix-daemon
	// builds for it does not count.
	Memory int64
	// Timeout is how long one guix pull may take, fetching and building; 0 means any time.
	Timeout time.Duration
	// BuildTimeout and BuildMaxSilent are how long each build that guix-daemon does for it
	// may take, and be silent; 0 leaves that to guix-daemon, which usually lets it go on for ever.
	BuildTimeout, BuildMaxSilent time.Duration
	// StopTimeout is how long a cancelled guix pull may take to end by itself
	// after SIGTERM; 0 means 5 seconds.
	StopTimeout time.Duration
	// Logger gets messages about pulls; nil discards them.
	Logger *slog.Logger

	mu      sync.Mutex // guards flights
	flights map[string]*flight
	logging sync.Mutex // held while writing to Log
}

// A flight is a pull that is going on, and who waits for it.
type flight struct {
	channels []byte
	done     chan struct{}
	profile  *Profile // valid once done is closed, like err
	err      error
}

// allFetched is what guix pull prints when it has fetched the last channel.
const allFetched = "Building from th"

// Names must not be taken for a generation (NAME-1-link) or a hidden file.
var (
	validName      = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]*$`)
	generationName = regexp.MustCompile(`-[0-9]+-link$`)
)

// Pull returns the profile of that name, made of the channels in the given
// channels.scm. If it is there already, nothing is run. Otherwise "guix pull" is, by one
// caller at a time whoever else asks for the same name meanwhile; they get the same
// result. The caller chooses names so that one means one list of channels,
// every channel with its commit: a digest of them. If the channels of a name
// changed nevertheless, it is pulled again.
//
// The profile is registered as a root of the garbage collector until [Puller.Remove].
// A pull that is killed leaves nothing that looks ready.
//
// When the channels are to blame, or the network, the disk or the daemon, the
// error is a [*PullError]. If ctx ends, guix pull and all its children are ended
// and the error wraps the cause; a next call starts again, with what has been built.
func (p *Puller) Pull(ctx context.Context, name string, channels []byte) (*Profile, error) {
	if !validName.MatchString(name) || generationName.MatchString(name) {
		return nil, fmt.Errorf("pull %q: not a name for a profile", name)
	}
	for {
		if profile := p.ready(name, channels); profile != nil {
			return profile, nil
		}
		f, first := p.board(name, channels)
		if first {
			f.profile, f.err = p.pullOnce(ctx, name, channels)
			p.land(name, f)
			return f.profile, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("pull %q: %w", name, context.Cause(ctx))
		}
		var failed *PullError
		if errors.As(f.err, &failed) && bytes.Equal(f.channels, channels) {
			return nil, f.err
		}
		// The other one succeeded, was cancelled or pulled other channels: look again.
	}
}

// board returns the pull of name that is going on, or starts one: then first is true.
func (p *Puller) board(name string, channels []byte) (f *flight, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flights[name]; f != nil {
		return f, false
	}
	f = &flight{channels: channels, done: make(chan struct{})}
	if p.flights == nil {
		p.flights = make(map[string]*flight)
	}
	p.flights[name] = f
	return f, true
}

func (p *Puller) land(name string, f *flight) {
	p.mu.Lock()
	delete(p.flights, name)
	p.mu.Unlock()
	close(f.done)
}

// pullOnce pulls name unless another process just did.
func (p *Puller) pullOnce(ctx context.Context, name string, channels []byte) (_ *Profile, err error) {
	defer func() {
		var failed *PullError
		if err != nil && !errors.As(err, &failed) {
			err = fmt.Errorf("pull %q: %w", name, err)
		}
	}()
	if err := p.makeDirectories(); err != nil {
		return nil, err
	}
	lock, err := filelock.Acquire(ctx, p.path("."+name+".pulling"))
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	if profile := p.ready(name, channels); profile != nil {
		return profile, nil
	}
	if err := p.clear(name); err != nil {
		return nil, err
	}
	if err := replaceFile(p.path(name+".scm"), channels); err != nil {
		return nil, err
	}
	start := time.Now()
	if err := p.run(ctx, name, channels, lock); err != nil {
		return nil, err
	}
	profile, err := openProfile(p.path(name))
	if err != nil {
		return nil, err
	}
	if err := p.markReady(name, profile, channels); err != nil {
		return nil, err
	}
	p.logger().Info("profile pulled", "name", name, "item", profile.Item, "seconds", time.Since(start).Seconds())
	return profile, nil
}

func (p *Puller) path(file string) string { return filepath.Join(p.Dir, file) }

func (p *Puller) cacheDir() string {
	if p.CacheDir == "" {
		return p.path(".cache")
	}
	return p.CacheDir
}

func (p *Puller) logger() *slog.Logger {
	if p.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Logger
}

func (p *Puller) makeDirectories() error {
	if p.Dir == "" {
		return errors.New("no directory for profiles was given")
	}
	if !filepath.IsAbs(p.Dir) || !filepath.IsAbs(p.cacheDir()) {
		return fmt.Errorf("directories %q and %q must be absolute", p.Dir, p.cacheDir())
	}
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return err
	}
	return os.MkdirAll(filepath.Join(p.cacheDir(), "home"), 0o700)
}

// run runs guix pull for the profile of that name. The lock is handed on to the child,
// so that it holds even if we are killed and the child goes on.
func (p *Puller) run(ctx context.Context, name string, channels []byte, lock *filelock.Lock) error {
	guix, err := program(p.Guix)
	if err != nil {
		return startFailed(err)
	}
	// Guix does not guard the checkouts it keeps against another guix pull,
	// so it is one at a time until the last channel is fetched.
	fetching, err := filelock.Acquire(ctx, filepath.Join(p.cacheDir(), ".fetching"))
	if err != nil {
		return err
	}
	defer fetching.Release()

	cmd := exec.Command(guix, slices.Concat([]string{"pull", "--channels=" + p.path(name+".scm"),
		"--profile=" + p.path(name)}, p.buildOptions(), p.Args)...)
	cmd.Dir = "/"
	cmd.Env = environment(p.Env, "HOME="+filepath.Join(p.cacheDir(), "home"), "XDG_CACHE_HOME="+p.cacheDir(),
		"XDG_CONFIG_HOME="+filepath.Join(p.cacheDir(), "home", ".config"), "LC_ALL=C.UTF-8", "LANGUAGE=en")
	cmd.ExtraFiles = []*os.File{lock.File(), fetching.File()}
	log := &lockedWriter{mu: &p.logging, w: p.Log}
	cmd.Stdout = log
	child, err := startProcess(cmd, io.MultiWriter(log, &watcher{text: []byte(allFetched), found: fetching.Release}), p.Memory)
	if err != nil {
		return startFailed(err)
	}
	clock := newClock(p.Timeout)
	defer clock.Stop()
	late := false
	select {
	case <-child.exited:
	case <-clock.C:
		late = true
	case <-ctx.Done():
	}
	if late || ctx.Err() != nil {
		child.terminate(p.stopTimeout())
		os.Remove(p.path(name + ".lock")) // guix's own, which it leaves when it is ended
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if child.err == nil && !late {
		return nil
	}
	ev := evidence{command: "guix pull", messages: child.stderr.String(), status: child.status(), channels: channelNames(channels)}
	if late {
		ev.late = p.Timeout
	}
	failed := diagnosePull(ev)
	if err := child.outOfMemory(); err != nil {
		failed.Failure = Failure{Cause: CauseMemory, Message: err.Error(), Hint: hints[CauseMemory], Log: failed.Log}
	}
	p.logger().Info("pull failed", "name", name, "stage", failed.Stage, "channel", failed.Channel, "err", failed.Message)
	return failed
}

// buildOptions bound what guix-daemon builds, in whole seconds.
func (p *Puller) buildOptions() (options []string) {
	add := func(option string, d time.Duration) {
		if d > 0 {
			options = append(options, fmt.Sprintf("--%s=%d", option, int64(max(time.Second, d.Round(time.Second))/time.Second)))
		}
	}
	add("timeout", p.BuildTimeout)
	add("max-silent-time", p.BuildMaxSilent)
	return options
}

// newClock is a timer that fires after d, and never if that is 0.
func newClock(d time.Duration) *time.Timer {
	if d <= 0 {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return t
	}
	return time.NewTimer(d)
}

func startFailed(err error) *PullError {
	return &PullError{Stage: StageStart, Failure: Failure{Cause: CauseMachinery, Message: err.Error()}}
}

func (p *Puller) stopTimeout() time.Duration {
	if p.StopTimeout == 0 {
		return 5 * time.Second
	}
	return p.StopTimeout
}

// A lockedWriter is for writers that share one; w may be nil.
type lockedWriter struct {
	mu *sync.Mutex // held while writing to w
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	if l.w == nil {
		return len(b), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// ready returns the profile of that name if it is complete and was made of these channels.
func (p *Puller) ready(name string, channels []byte) *Profile {
	text, err := os.ReadFile(p.path(name + ".pulled"))
	if err != nil {
		return nil
	}
	profile, err := openProfile(p.path(name))
	if err != nil || !bytes.Equal(text, readyMark(profile, channels)) {
		return nil
	}
	return profile
}

// readyMark is what the file that marks a complete profile says.
func readyMark(profile *Profile, channels []byte) []byte {
	digest := sha256.Sum256(channels)
	field := func(name, value string) sexp.Value { return sexp.L(sexp.Symbol(name), sexp.String(value)) }
	return []byte(sexp.L(sexp.Symbol("pulled"), sexp.L(sexp.Symbol("version"), sexp.Int(0)),
		field("profile", profile.Item), field("channels-sha256", hex.EncodeToString(digest[:]))).String() + "\n")
}

// markReady is the last step: guix pull has registered the root before.
func (p *Puller) markReady(name string, profile *Profile, channels []byte) error {
	return replaceFile(p.path(name+".pulled"), readyMark(profile, channels))
}

// Remove forgets the profile of that name; the garbage collector may then take it.
// It waits for a pull of that name to end. There need not be such a profile.
func (p *Puller) Remove(ctx context.Context, name string) error {
	if _, err := os.Stat(p.Dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := filelock.Acquire(ctx, p.path("."+name+".pulling"))
	if err != nil {
		return fmt.Errorf("remove profile %q: %w", name, err)
	}
	defer lock.Release()
	if err := p.clear(name); err != nil {
		return fmt.Errorf("remove profile %q: %w", name, err)
	}
	return nil
}

// clear removes what is there of a profile, the mark first. An earlier pull may have been
// killed after it switched to the profile and before it registered the root;
// given that, guix pull would find nothing to be done.
func (p *Puller) clear(name string) error {
	files := []string{name + ".pulled", name}
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), name)
		if ok && generationName.MatchString(rest) && generationName.FindStringIndex(rest)[0] == 0 {
			files = append(files, e.Name())
		}
	}
	files = append(files, name+".scm", name+".lock")
	for _, f := range files {
		if err := os.Remove(p.path(f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Names lists the profiles that are complete, in alphabetical order.
func (p *Puller) Names() ([]string, error) {
	entries, err := os.ReadDir(p.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".pulled"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// channelNames returns the names in a channels.scm, as far as they are plain data.
func channelNames(text []byte) []string {
	var names []string
	r := sexp.NewReader(bytes.NewReader(text))
	for {
		v, err := r.Next()
		if err != nil {
			return names
		}
		names = append(names, namesWithin(v)...)
	}
}

// namesWithin returns X of each (channel (name 'X) …) inside of v.
func namesWithin(v sexp.Value) (names []string) {
	l, ok := v.(*sexp.List)
	if !ok {
		return nil
	}
	if _, ok := sexp.Tagged(v, "channel"); ok {
		name, _ := sexp.Field(v, "name")
		if quoted, ok := sexp.Tagged(name, "quote"); ok && len(quoted) == 1 {
			return []string{displayed(quoted[0])}
		}
	}
	for _, item := range l.Items {
		names = append(names, namesWithin(item)...)
	}
	return names
}
