// Guixbox gives a machine without Guix a real one, in a box (see package
// guixbox), and runs commands in it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

const usage = `Usage: guixbox up
       guixbox exec -- COMMAND [ARGUMENT]...
       guixbox stand-ins DERIVATION...
       guixbox status [--json]
       guixbox where
       guixbox down
A real GNU Guix for machines without one: a Debian root in its own mount namespace.

  up         install the box if there is none (a minute, once), start guix-daemon
  exec       run a command in the box, which is brought up if need be;
             on a machine with a working Guix, just run it
  stand-ins  make the packages that DERIVATIONs need out of Debian's
  status     say what there is
  where      print "host" if the machine has a working Guix, else "box"
  down       stop the daemon and everything else in the box; its store stays

Exit status: 0 done, 2 wrong usage, 3 it cannot be done; of exec, the command's.

GUIXBOX_DIR     where the box lives (default: /var/cache/guixbox)
GUIXBOX_MIRROR  the Debian archive to install from
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// errUsage says that the arguments are wrong.
var errUsage = errors.New("wrong arguments")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	box := &guixbox.Box{Progress: func(line string) { fmt.Fprintln(stderr, "guixbox:", line) }}
	err := errUsage
	if len(args) > 0 {
		err = do(ctx, box, args[0], args[1:], stdout)
	}
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "guixbox: %v\nTry 'guixbox --help' for more information.\n", err)
		return 2
	case err != nil:
		fmt.Fprintln(stderr, "guixbox:", err)
		return 3
	}
	return 0
}

func do(ctx context.Context, box *guixbox.Box, verb string, args []string, stdout io.Writer) error {
	switch verb {
	case "exec":
		return execute(ctx, box, args)
	case "stand-ins":
		return standIns(ctx, box, args)
	case "status":
		return status(box, args, stdout)
	}
	if len(args) > 0 {
		return fmt.Errorf("%w: %s takes none, not %q", errUsage, verb, args[0])
	}
	switch verb {
	case "--help", "-h", "help":
		fmt.Fprint(stdout, usage)
	case "--version":
		fmt.Fprintln(stdout, "guixbox of guixci")
	case "up":
		return box.Up(ctx)
	case "down":
		return box.Down(ctx)
	case "where":
		where := "box"
		if guixbox.OnHost(ctx) {
			where = "host"
		}
		fmt.Fprintln(stdout, where)
	default:
		return fmt.Errorf("%w: no command %q", errUsage, verb)
	}
	return nil
}

func standIns(ctx context.Context, box *guixbox.Box, drvs []string) error {
	if len(drvs) == 0 {
		return fmt.Errorf("%w: stand-ins: no derivation given", errUsage)
	}
	if err := box.Up(ctx); err != nil {
		return err
	}
	return box.StandIns(ctx, drvs...)
}

func status(box *guixbox.Box, args []string, stdout io.Writer) error {
	asJSON := slices.Equal(args, []string{"--json"})
	if len(args) > 0 && !asJSON {
		return fmt.Errorf("%w: status takes --json, not %q", errUsage, args[0])
	}
	st, err := box.Status()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(stdout).Encode(st)
	}
	switch {
	case st.Root == "":
		fmt.Fprintf(stdout, "none: nothing installed in %s\n", st.Dir)
	case !st.Up():
		fmt.Fprintf(stdout, "down: installed in %s\n", st.Root)
	default:
		fmt.Fprintf(stdout, "up: %s, namespace held by process %d, guix-daemon's by %d\n", st.Root, st.Holder, st.Daemon)
	}
	return nil
}

// execute does not come back: the command takes this process's place, so that
// signals and exit status are its own.
func execute(ctx context.Context, box *guixbox.Box, args []string) error {
	options := true
	if len(args) > 0 && args[0] == "--" {
		args, options = args[1:], false
	}
	if len(args) == 0 {
		return fmt.Errorf("%w: exec: no command given", errUsage)
	}
	if options && strings.HasPrefix(args[0], "-") {
		return fmt.Errorf("%w: exec: no option %q", errUsage, args[0])
	}
	if os.Getenv(guixtest.Env) != "" { // on a machine with Guix, or in the box
		name, err := exec.LookPath(args[0])
		if err != nil {
			return fmt.Errorf("exec: %v", err)
		}
		return fmt.Errorf("exec: %v", syscall.Exec(name, args, os.Environ()))
	}
	if err := box.Up(ctx); err != nil {
		return err
	}
	return box.Exec([]string{guixbox.Say + "=guixbox: working in /, since the box has its own"}, args[0], args[1:]...)
}
