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

  up         install the box if there is none (minutes, once), start guix-daemon
  exec       run a command in the box, which is brought up if need be;
             on a machine with a working Guix, just run it
  stand-ins  make the packages that DERIVATIONs need out of Debian's
  status     say what there is
  where      print "host" if the machine has a working Guix, else "box"
  down       stop the daemon and everything else in the box; its store stays

GUIXBOX_DIR     where the box lives (default: /var/cache/guixbox)
GUIXBOX_MIRROR  the Debian archive to install from
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	box := &guixbox.Box{Progress: func(line string) { fmt.Fprintln(stderr, "guixbox:", line) }}
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	var err error
	switch verb, rest := args[0], args[1:]; verb {
	case "--help", "-h", "help":
		fmt.Fprint(stdout, usage)
	case "--version":
		fmt.Fprintln(stdout, "guixbox of guixci")
	case "up":
		err = box.Up(ctx)
	case "down":
		err = box.Down(ctx)
	case "status":
		err = status(box, len(rest) > 0 && rest[0] == "--json", stdout)
	case "exec":
		err = execute(ctx, box, rest)
	case "where":
		where := "box"
		if guixbox.OnHost(ctx) {
			where = "host"
		}
		fmt.Fprintln(stdout, where)
	case "stand-ins":
		if err = box.Up(ctx); err == nil {
			err = box.StandIns(ctx, rest...)
		}
	default:
		fmt.Fprintf(stderr, "guixbox: no command %q\nTry 'guixbox --help' for more information.\n", verb)
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, "guixbox:", err)
		return 3
	}
	return 0
}

func status(box *guixbox.Box, asJSON bool, stdout io.Writer) error {
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
		fmt.Fprintf(stdout, "up: %s, namespace held by process %d, guix-daemon is %d\n", st.Root, st.Holder, st.Daemon)
	}
	return nil
}

// execute does not come back: the command takes this process's place, so that
// signals and exit status are its own.
func execute(ctx context.Context, box *guixbox.Box, args []string) error {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return errors.New("exec: no command given")
	}
	if os.Getenv(guixtest.Env) == "host" {
		name, err := exec.LookPath(args[0])
		if err != nil {
			return fmt.Errorf("exec: %v", err)
		}
		return fmt.Errorf("exec: %v", syscall.Exec(name, args, os.Environ()))
	}
	if err := box.Up(ctx); err != nil {
		return err
	}
	return box.Exec(nil, args[0], args[1:]...)
}
