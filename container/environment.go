package container

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
	"golang.org/x/sys/unix"
)

// An Environment is what a container is given in one place and not in another, beside
// its mounts: staging and production run the same store item in different environments.
// The zero value gives nothing.
//
// Settings and secrets are files in one directory of the container, made anew
// each time it starts, and read-only there: Target/settings and Target/secrets/NAME.
type Environment struct {
	Name string `json:"name,omitempty"` // such as "production"; for people
	// Settings are written to a file. They are kept with the generation and
	// shown in differences: what must not be seen belongs into Secrets.
	Settings map[string]string `json:"settings,omitempty"`
	Format   Format            `json:"format,omitempty"`
	// Required names settings and secrets without which no generation is tried.
	Required []string `json:"required,omitempty"`
	Secrets  []Secret `json:"secrets,omitempty"`
	// Target is the directory in the container; empty means /etc/guixci.
	Target string `json:"target,omitempty"`
	// Ports are those of the host, TCP, that the container will listen on. That
	// they are free is checked beforehand.
	Ports []int `json:"ports,omitempty"`
	// Network is the container's own, if it is to have one.
	Network Network `json:"network,omitzero"`
	// Limits hold for all processes of the container together.
	Limits Limits `json:"limits,omitzero"`
	// Runner names one of the deployment's Runners; empty means our own [Supervisor].
	Runner string `json:"runner,omitempty"`
}

// Limits are enforced by the kernel's control groups. Zero means none.
type Limits struct {
	Memory int64 `json:"memory,omitempty"` // bytes; no container comes up with less than 16 MiB
	Tasks  int   `json:"tasks,omitempty"`  // processes and threads
}

// A Format is how settings are written.
type Format string

const (
	Shell  Format = ""       // NAME='value' lines, for a shell or an environment file
	Scheme Format = "scheme" // an association list of strings: (("NAME" . "value") …)
	JSON   Format = "json"   // an object of strings
)

// A Secret is a file that nobody but its user may read. Its contents are in no store item,
// argument list, log or ledger; the container gets a copy that goes when it stops.
type Secret struct {
	Name string `json:"name"` // of the file in the container; letters, digits, ".", "-", "_"
	File string `json:"file"` // on the host: regular, and readable by its owner only
	// UID and GID own the copy, which has mode 0400; 0 is root.
	UID int `json:"uid,omitempty"`
	GID int `json:"gid,omitempty"`
}

const defaultTarget = "/etc/guixci"

// isEmpty reports whether there are no files to hand over.
func (e Environment) isEmpty() bool { return len(e.Settings) == 0 && len(e.Secrets) == 0 }

// mount is where the container sees the files that are below a run's directory.
func (e Environment) mount(runDir string) Mount {
	m := Mount{Source: filepath.Join(runDir, "environment"), Target: e.Target}
	if m.Target == "" {
		m.Target = defaultTarget
	}
	return m
}

var (
	settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	secretName  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
)

// checkEnvironment returns why an environment cannot be handed over.
func (d *Deployment) checkEnvironment(e Environment) error {
	errs := []error{e.checkFormat(), d.placing("memory", e.Limits.check())}
	for _, name := range slices.Sorted(maps.Keys(e.Settings)) {
		errs = append(errs, d.placing("setting "+name, checkSetting(name, e.Settings[name])))
	}
	for _, name := range e.Required {
		_, set := e.Settings[name]
		if !set && !slices.ContainsFunc(e.Secrets, func(s Secret) bool { return s.Name == name }) {
			errs = append(errs, d.placing("required "+name, fmt.Errorf("required setting %q is not set", name)))
		}
	}
	seen := make(map[string]bool)
	for _, s := range e.Secrets {
		refuse := func(err error) { errs = append(errs, d.placing("secret "+s.Name, err)) }
		if seen[s.Name] {
			refuse(fmt.Errorf("two secrets are called %q", s.Name))
		}
		seen[s.Name] = true
		f, err := s.open()
		if err == nil {
			f.Close()
		}
		refuse(err)
	}
	return errors.Join(errs...)
}

// checkPlaces returns which secrets are where somebody else could exchange them.
func (d *Deployment) checkPlaces(e Environment) error {
	var errs []error
	for _, s := range e.Secrets {
		errs = append(errs, d.placing("secret "+s.Name, s.judgePlace()))
	}
	return errors.Join(errs...)
}

// open opens the file of a secret, if it has been kept as one.
func (s Secret) open() (*os.File, error) {
	if !secretName.MatchString(s.Name) {
		return nil, fmt.Errorf("secret %q: not a name for a file", s.Name)
	}
	if !filepath.IsAbs(s.File) {
		return nil, fmt.Errorf("secret %q: %q is not an absolute file name", s.Name, s.File)
	}
	// Not blocking: a pipe in its place would wait for a writer.
	f, err := os.OpenFile(s.File, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", s.Name, err)
	}
	if err := s.judge(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("secret %q: %w", s.Name, err)
	}
	return f, nil
}

// judge looks at the open file, which nobody can exchange any more.
func (s Secret) judge(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(s.File)
	switch {
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%s is not a regular file", s.File)
	case strings.HasPrefix(real, "/gnu/store/"):
		return fmt.Errorf("%s is in the store, where everybody can read it", s.File)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%s has mode %#o: others than its owner may use it; chmod 600 it", s.File, st.Mode&0o7777)
	case !trusted(st.Uid):
		return fmt.Errorf("%s belongs to user %d, who could change it at any time", s.File, st.Uid)
	}
	return nil
}

// judgePlace looks for directories in which somebody else could put another file in its place.
func (s Secret) judgePlace() error {
	real, err := filepath.EvalSymlinks(s.File)
	if err != nil || !filepath.IsAbs(s.File) {
		return nil // check has said so
	}
	if err := cmp.Or(judgeDirs(filepath.Clean(s.File)), judgeDirs(real)); err != nil {
		return fmt.Errorf("secret %q: %w", s.Name, err)
	}
	return nil
}

// trusted reports whether a user is us or root.
func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// judgeDirs looks for directories above a file in which somebody else could put another one in its place.
func judgeDirs(name string) error {
	for name != "/" {
		name = filepath.Dir(name)
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: name, Err: err}
		}
		switch {
		case !trusted(st.Uid):
			return fmt.Errorf("directory %s belongs to user %d, who could put another file in its place", name, st.Uid)
		case st.Mode&unix.S_ISVTX != 0: // only owners can remove files
		case st.Mode&0o002 != 0, st.Mode&0o020 != 0 && st.Gid != 0:
			return fmt.Errorf("directory %s has mode %#o: others could put another file in its place; chmod go-w it", name, st.Mode&0o7777)
		}
	}
	return nil
}

func checkSetting(name, value string) error {
	if !settingName.MatchString(name) {
		return fmt.Errorf("setting %q: a name consists of letters, digits and underscores", name)
	}
	if strings.ContainsRune(value, 0) {
		return fmt.Errorf("setting %q: its value holds a null character", name)
	}
	return nil
}

func (e Environment) checkFormat() error {
	if !slices.Contains([]Format{Shell, Scheme, JSON}, e.Format) {
		return fmt.Errorf("settings: unknown format %q", e.Format)
	}
	return nil
}

// render returns the text of the settings file, names in order.
func (e Environment) render() ([]byte, error) {
	names := slices.Sorted(maps.Keys(e.Settings))
	errs := []error{e.checkFormat()}
	for _, name := range names {
		errs = append(errs, checkSetting(name, e.Settings[name]))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var text strings.Builder
	switch e.Format {
	case Shell:
		for _, name := range names {
			fmt.Fprintf(&text, "%s='%s'\n", name, strings.ReplaceAll(e.Settings[name], "'", `'\''`))
		}
	case Scheme:
		pairs := sexp.L()
		for _, name := range names {
			pairs.Items = append(pairs.Items, sexp.Cons(sexp.String(name), sexp.String(e.Settings[name])))
		}
		fmt.Fprintln(&text, pairs)
	case JSON:
		object, err := json.MarshalIndent(e.Settings, "", "  ")
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&text, "%s\n", object)
	}
	return []byte(text.String()), nil
}

// handOver makes the files of the environment in a directory that the container
// sees. The directories above it keep everybody else on the host out.
func (e Environment) handOver(dir string) error {
	if e.isEmpty() {
		return nil
	}
	text, err := e.render()
	if err != nil {
		return err
	}
	secrets := filepath.Join(dir, "secrets")
	for _, name := range []string{dir, secrets} {
		if err := os.Mkdir(name, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "settings"), text, 0o644); err != nil {
		return err
	}
	for _, s := range e.Secrets {
		if err := s.copyTo(filepath.Join(secrets, s.Name)); err != nil {
			return fmt.Errorf("secret %q: %w", s.Name, err)
		}
	}
	return nil
}

func (s Secret) copyTo(name string) error {
	from, err := s.open()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o400)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err == nil && (s.UID != os.Geteuid() || s.GID != os.Getegid()) {
		err = to.Chown(s.UID, s.GID)
	}
	return errors.Join(err, to.Close())
}

// Bindings returns a digest, SHA-256 in hexadecimal, of all that the generation
// is given from outside: mounts and environment. Of secrets it covers where they
// are, not what they are.
func (g *Generation) Bindings() string {
	text, err := json.Marshal(struct {
		Shares, Exposes []Mount
		Environment     Environment
	}{g.Shares, g.Exposes, g.Environment})
	if err != nil {
		panic(err) // there is nothing in it that JSON lacks
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
