// Command guixci-substitute takes the place of "guix" for guix-daemon, to download
// substitutes faster and more reliably:
//
//	GUIX=/usr/local/bin/guixci-substitute guix-daemon …
//
// It answers "substitute --query" and "substitute --substitute" itself and
// runs the real guix, which GUIXCI_GUIX names ("guix" by default), for everything else
// that the daemon asks of it. It reads the same configuration as guix does: the
// access-control list, the variables that the daemon sets, GUIX_CONFIGURATION_DIRECTORY.
// GUIXCI_SUBSTITUTE_HOSTS lists hosts, besides the caches, that archives may come from.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/agent"
)

const program = "guixci-substitute"

func main() { cli.Main(run) }

const usage = `Usage: guixci-substitute substitute --query|--substitute
       guixci-substitute COMMAND ARG...

Answer guix-daemon's questions about substitutes, in place of "guix substitute".
Any other COMMAND is handed to the real guix, which GUIXCI_GUIX names.

To use it, set GUIX to the full name of this program in guix-daemon's environment, and there as well:

  GUIXCI_GUIX              the real guix, "guix" by default
  GUIXCI_SUBSTITUTE_HOSTS  hosts, besides the caches themselves, that archives may come from:
                           names separated by spaces, such as those a cache redirects to

  -h, --help     display this help and exit
  -V, --version  display version information and exit
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 {
		switch args[0] {
		case "-h", "--help":
			io.WriteString(stdout, usage)
			return cli.OK
		case "-V", "--version":
			io.WriteString(stdout, cli.Version(program))
			return cli.OK
		}
	}
	if err := serve(ctx, args, stderr); err != nil {
		cli.Complain(stderr, program, err)
		return cli.ExitCode(err)
	}
	return cli.OK
}

// repliesFD is where guix-daemon reads.
const repliesFD = 4

func serve(ctx context.Context, args []string, stderr io.Writer) error {
	ours := len(args) == 2 && args[0] == "substitute" && (args[1] == "--query" || args[1] == "--substitute")
	// Not to check signatures is something we do not do.
	if !ours || os.Getenv("GUIX_ALLOW_UNAUTHENTICATED_SUBSTITUTES") == "yes" {
		return handOver(args)
	}
	replies := os.NewFile(repliesFD, "replies")
	if !passed(replies) {
		return &cli.UsageError{Err: errors.New("no descriptor 4 to reply to: this is for guix-daemon to run")}
	}
	a, err := newAgent(stderr)
	if err != nil {
		return err
	}
	if args[1] == "--query" {
		return a.Query(ctx, os.Stdin, replies)
	}
	return a.Substitute(ctx, os.Stdin, replies)
}

// passed reports whether a descriptor came from whoever started us. One that the Go runtime has opened
// for itself is of no type that a file has, or cannot be written to.
func passed(f *os.File) bool {
	var stat unix.Stat_t
	if unix.Fstat(int(f.Fd()), &stat) != nil || stat.Mode&unix.S_IFMT == 0 {
		return false
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY
}

// handOver becomes the real guix.
func handOver(args []string) error {
	name := os.Getenv("GUIXCI_GUIX")
	if name == "" {
		name = "guix"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return &cli.UsageError{Err: fmt.Errorf("find the real guix: %w", err)}
	}
	if same, err := isSelf(path); err != nil || same {
		return &cli.UsageError{Err: errors.Join(err, fmt.Errorf("%q is this program itself: set GUIXCI_GUIX to the real guix", path))}
	}
	// The daemon's GUIX, this program, must not be what the real guix runs.
	return syscall.Exec(path, append([]string{"guix"}, args...), os.Environ())
}

func isSelf(path string) (bool, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false, err
	}
	other, err := os.Stat(path)
	return err == nil && os.SameFile(self, other), err
}

// newAgent reads the configuration that "guix substitute" would.
func newAgent(stderr io.Writer) (*agent.Agent, error) {
	acl, err := readACL(configDir())
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	options := agent.ParseOptions(os.Getenv("_NIX_OPTIONS"))
	logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return &agent.Agent{
		Client: &substitute.Client{
			URLs:   urls(options),
			ACL:    acl,
			Dir:    cacheDir(),
			Hosts:  strings.Fields(os.Getenv("GUIXCI_SUBSTITUTE_HOSTS")),
			Logger: logger,
		},
		Options: options,
		Trace:   stderr,
		Links:   filepath.Join(substitute.StoreDir, ".links"),
		Ahead:   ahead(),
		Logger:  logger,
	}, nil
}

func configDir() string {
	if dir := os.Getenv("GUIX_CONFIGURATION_DIRECTORY"); dir != "" {
		return dir
	}
	return "/etc/guix"
}

// readACL reads the access-control list. Without one the machine's own key is believed, as Guix
// does; without that, nobody.
func readACL(dir string) (*substitute.ACL, error) {
	acl, err := substitute.ReadACLFile(filepath.Join(dir, "acl"))
	if !errors.Is(err, fs.ErrNotExist) {
		return acl, err
	}
	own, err := substitute.ReadPublicKeyFile(filepath.Join(dir, "signing-key.pub"))
	if errors.Is(err, fs.ErrNotExist) {
		return substitute.NewACL(), nil
	}
	if err != nil {
		return nil, err
	}
	return substitute.NewACL(own), nil
}

// cacheDir is where answers are remembered, beside where "guix substitute" does that.
func cacheDir() string {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "guix", "guixci-substitute")
	}
	if os.Getuid() == 0 {
		return filepath.Join(stateDir(), "substitute", "guixci")
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "" // remembers only in memory
	}
	return filepath.Join(dir, "guix", "guixci-substitute")
}

// ahead is a file that our parent, which serves one client of the daemon, has in common with the other program
// that it runs.
func ahead() string {
	dir := cacheDir()
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "ahead", fmt.Sprintf(".%d", os.Getppid()))
}

func stateDir() string {
	for _, name := range []string{"GUIX_STATE_DIRECTORY", "NIX_STATE_DIR"} {
		if dir := os.Getenv(name); dir != "" {
			return dir
		}
	}
	return "/var/guix"
}

// official are the caches of the Guix project.
var official = []string{"https://bordeaux.guix.gnu.org", "https://ci.guix.gnu.org"}

// urls are the caches to ask: those of the local network, if that is wanted, then
// those that were configured.
func urls(o agent.Options) []string {
	all := o.URLs
	if all == nil {
		all = official
	}
	if !o.Discover {
		return all
	}
	const most = 50
	found, _ := os.ReadFile(filepath.Join(stateDir(), "discover", "publish")) // none is fine
	near := strings.Fields(string(found))
	return append(near[:min(len(near), most):most], all...)
}
