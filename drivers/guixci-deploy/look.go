package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/internal/cli"
)

// on makes a verb that works on a deployment which exists.
func (d *driver) on(use, short string, check cobra.PositionalArgs, run func(*cobra.Command, *container.Deployment, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: arguments(check),
		RunE: func(c *cobra.Command, args []string) error {
			dep, err := d.existing(args[0])
			if err != nil {
				return err
			}
			return run(c, dep, args[1:])
		},
	}
}

// A status is what "status --json" prints.
type status struct {
	Deployment string                `json:"deployment"`
	Current    *container.Generation `json:"current"`
	Running    int                   `json:"running,omitempty"` // generation; 0 for none
	PID        int                   `json:"pid,omitempty"`
	Since      time.Time             `json:"since,omitzero"`
	Confirmed  bool                  `json:"confirmed"`
	ComingUp   bool                  `json:"coming_up,omitempty"`
	WaitsUntil time.Time             `json:"waits_until,omitzero"` // to be confirmed
	Beside     int                   `json:"beside,omitempty"`     // generation that runs, too; 0 for none
	Wanted     bool                  `json:"wanted"`
	Services   []service             `json:"services,omitempty"`
	Trouble    string                `json:"trouble,omitempty"`
	Holder     *container.Holder     `json:"holder,omitempty"`
}

type service struct {
	Name    string `json:"name"`
	Status  string `json:"status"`
	Problem string `json:"problem,omitempty"` // that makes status 1
}

func (d *driver) statusCommand() *cobra.Command {
	return d.on("status NAME", "Say what runs and how it is", cobra.ExactArgs(1),
		func(c *cobra.Command, dep *container.Deployment, _ []string) error {
			s, err := dep.Status(c.Context())
			if err != nil {
				return err
			}
			answer := statusOf(dep.Name, s)
			if err := d.print(answer, answer.print); err != nil {
				return err
			}
			if s.Wanted && s.Running == nil || s.Trouble != nil || len(s.Unwell) > 0 {
				return exitStatus(cli.Red)
			}
			return nil
		})
}

func statusOf(name string, s *container.Status) status {
	a := status{Deployment: name, Current: s.Current, Confirmed: s.Confirmed, ComingUp: s.ComingUp, Wanted: s.Wanted, Since: s.Since, WaitsUntil: s.WaitsUntil, Holder: s.Holder}
	if s.Running != nil {
		a.Running, a.PID = s.Running.Generation.Number, s.Running.Process.PID
	}
	if s.Beside != nil {
		a.Beside = s.Beside.Generation.Number
	}
	if s.Trouble != nil {
		a.Trouble = s.Trouble.Error()
	}
	for _, one := range s.Services {
		a.Services = append(a.Services, service{Name: one.Name(), Status: one.Status})
	}
	for _, bad := range s.Unwell {
		i := slices.IndexFunc(a.Services, func(one service) bool { return one.Name == bad.Service.Name() })
		if i < 0 { // it ought to be there
			i = len(a.Services)
			a.Services = append(a.Services, service{Name: bad.Service.Name(), Status: "missing"})
		}
		a.Services[i].Problem = bad.Problem
	}
	return a
}

func (s status) print(w io.Writer) {
	switch {
	case s.Running == 0 && s.Wanted:
		fmt.Fprintf(w, "%s ought to run and does not\n", s.Deployment)
	case s.Running == 0 && s.Current == nil:
		fmt.Fprintf(w, "%s has no generation: nothing was ever confirmed, or imported to the end\n", s.Deployment)
	case s.Running == 0:
		fmt.Fprintf(w, "%s is stopped\n", s.Deployment)
	case !s.Confirmed:
		fmt.Fprintf(w, "%s tries generation %d, pid %d, since %s\n", s.Deployment, s.Running, s.PID, s.Since.Format(time.RFC3339))
	case s.ComingUp:
		fmt.Fprintf(w, "%s starts generation %d, pid %d, since %s\n", s.Deployment, s.Running, s.PID, s.Since.Format(time.RFC3339))
	default:
		fmt.Fprintf(w, "%s runs generation %d, pid %d, since %s\n", s.Deployment, s.Running, s.PID, s.Since.Format(time.RFC3339))
	}
	if s.Beside != 0 {
		fmt.Fprintf(w, "  generation %d runs beside it\n", s.Beside)
	}
	if !s.WaitsUntil.IsZero() {
		fmt.Fprintf(w, "  it waits for \"confirm\" until %s, and is taken back then\n", s.WaitsUntil.Format(time.RFC3339))
	}
	for _, one := range s.Services {
		if one.Problem != "" {
			fmt.Fprintf(w, "! %-9s %s: it %s\n", one.Status, one.Name, one.Problem)
			continue
		}
		fmt.Fprintf(w, "  %-9s %s\n", one.Status, one.Name)
	}
	if s.Trouble != "" {
		fmt.Fprintf(w, "  shepherd cannot be asked: %s\n", s.Trouble)
	}
	if s.Holder != nil {
		fmt.Fprintf(w, "  process %d (%s: %s) changes it since %s\n", s.Holder.PID, s.Holder.Who, s.Holder.Why, s.Holder.Since.Format(time.RFC3339))
	}
}

func (d *driver) logsCommand() *cobra.Command {
	var follow bool
	c := d.on("logs NAME [SERVICE]", "Print what the container, or a service of it, has printed", cobra.RangeArgs(1, 2),
		func(c *cobra.Command, dep *container.Deployment, args []string) error {
			return dep.Logs(c.Context(), d.stdout, strings.Join(args, ""), follow)
		})
	c.Long = `Print what the container has said: what shows on its console, which is what its activation, its
shepherd and the services that have no log file of their own say, and what a system log
writes to /dev/tty12. Of a service: its log files, or what the console had of it since the container began.

It is kept with the generation, as it comes, and put aside when it has grown; see "supervise". A line that
begins with "guixci:" says where something is missing: while the disk was full, for example.`
	c.Flags().BoolVar(&follow, "follow", false, "go on with what is said from now on, until the container ends")
	return c
}

func (d *driver) execCommand() *cobra.Command {
	return d.on("exec NAME -- COMMAND ARGUMENT...", "Run a command in the container; its exit status is ours", cobra.MinimumNArgs(2),
		func(c *cobra.Command, dep *container.Deployment, args []string) error {
			code, err := dep.Exec(c.Context(), container.Stdio{In: os.Stdin, Out: d.stdout, Err: d.stderr}, args...)
			if err != nil {
				return err
			}
			if code != 0 {
				return exitStatus(code)
			}
			return nil
		})
}

func (d *driver) startCommand() *cobra.Command {
	return d.on("start NAME", "Start the current generation, after a stop or a boot", cobra.ExactArgs(1),
		func(c *cobra.Command, dep *container.Deployment, _ []string) error {
			in, err := during(d, "starting", dep, func() (*container.Instance, error) { return dep.Start(c.Context()) })
			if err != nil {
				return err
			}
			g := *in.Generation
			g.Switched = nil // that was another time
			return d.supervised(dep, c.Flags().Arg(0), d.conclude(&g, nil))
		})
}

func (d *driver) stopCommand() *cobra.Command {
	return d.on("stop NAME", "Stop the container; it stays so until start or apply", cobra.ExactArgs(1),
		func(c *cobra.Command, dep *container.Deployment, _ []string) error {
			_, err := during(d, "stopping", dep, func() (bool, error) { return true, dep.Stop(c.Context()) })
			return err
		})
}

func (d *driver) restartCommand() *cobra.Command {
	return d.on("restart NAME SERVICE", "Restart a service in the container, with those that require it", cobra.ExactArgs(2),
		func(c *cobra.Command, dep *container.Deployment, args []string) error {
			return dep.RestartService(c.Context(), args[0])
		})
}

func (d *driver) runCommand() *cobra.Command {
	var number int
	var as container.Beside
	c := d.on("run NAME --generation N", "Run an older generation beside the live one, to look at it, until Ctrl-C", cobra.ExactArgs(1),
		func(c *cobra.Command, dep *container.Deployment, _ []string) error {
			if number < 1 {
				return &cli.MisuseError{Err: errors.New("say which one: --generation N")}
			}
			pool := connect(dep)
			var told error
			err := dep.RunBeside(c.Context(), number, as, func(in *container.Instance) {
				told = d.print(beside{number, in.Process.PID, in.Generation.Environment.Ports}, func(w io.Writer) {
					fmt.Fprintf(w, "generation %d runs beside, pid %d, ports %v; Ctrl-C ends it\n", number, in.Process.PID, in.Generation.Environment.Ports)
				})
			})
			return errors.Join(err, told, pool.Close())
		})
	c.Long = `Run an older generation beside the live one, to look at it, until Ctrl-C or SIGTERM: then stop it.
It has the mounts, settings and ports that it had then, unless told otherwise. It cannot
have the ports of the live one, nor write where that one does, unless the mount is concurrent.`
	flags := c.Flags()
	flags.IntVar(&number, "generation", 0, "the generation")
	flags.IntSliceVar(&as.Ports, "port", nil, "its ports, in the place of those it had")
	flags.TextVar(&as.Address, "address", netip.Addr{}, "the address of its own network, in the place of what it had")
	flags.Var((*pairs)(&as.Settings), "set", "the setting `NAME=VALUE`, in the place of what it had; may be repeated")
	flags.Var((*pairs)(&as.Sources), "mount", "the mount `NAME=DIRECTORY` of this machine, in the place of what it had; may be repeated")
	return c
}

// pairs are a flag NAME=VALUE that may be repeated. The value is taken as it is, commas included.
type pairs map[string]string

func (p *pairs) String() string { return "" }
func (p *pairs) Type() string   { return "NAME=VALUE" }

// Set adds one.
func (p *pairs) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return fmt.Errorf("%q is not NAME=VALUE", text)
	}
	if *p == nil {
		*p = make(pairs)
	}
	(*p)[name] = value
	return nil
}

// A beside is what "run --json" prints once it runs.
type beside struct {
	Generation int   `json:"generation"`
	PID        int   `json:"pid"`
	Ports      []int `json:"ports,omitempty"`
}

func (d *driver) historyCommand() *cobra.Command {
	return d.on("history NAME", "Print the ledger: what was done, when, by whom and why", cobra.ExactArgs(1),
		func(_ *cobra.Command, dep *container.Deployment, _ []string) error {
			entries, err := dep.History()
			return errors.Join(d.print(withHashes(entries), func(w io.Writer) { d.printHistory(w, entries) }), err)
		})
}

// A hashed is an entry as "history --json" prints it.
type hashed struct {
	container.Entry
	Hash string `json:"hash"`
}

func withHashes(entries []container.Entry) []hashed {
	all := make([]hashed, len(entries))
	for i, e := range entries {
		all[i] = hashed{e, e.Hash}
	}
	return all
}

func (d *driver) printHistory(w io.Writer, entries []container.Entry) {
	for _, e := range entries {
		fmt.Fprintf(w, "%d %s %s", e.Number, e.Time.Format(time.RFC3339), e.Event)
		if e.Generation != 0 {
			fmt.Fprintf(w, " generation %d", e.Generation)
		}
		if e.Who+e.Why != "" {
			fmt.Fprintf(w, " (%s: %s)", e.Who, e.Why)
		}
		if detail, _, _ := strings.Cut(e.Detail, "\n"); detail != "" {
			fmt.Fprintf(w, " %s", detail)
		}
		fmt.Fprintln(w)
		if d.verbose {
			printEntry(w, e)
		}
	}
	if n := len(entries); n > 0 && d.verbose {
		fmt.Fprintf(w, "the last entry has hash %s\n", entries[n-1].Hash)
	}
}

// printEntry prints the rest of an entry.
func printEntry(w io.Writer, e container.Entry) {
	if e.Script != "" {
		fmt.Fprintf(w, "  script %s, lock %.12s, bindings %.12s\n", e.Script, cmp.Or(e.Lock, "-"), e.Bindings)
	}
	if e.Plan != nil {
		e.Plan.WriteTo(w)
	}
	for _, p := range e.Probes {
		fmt.Fprintf(w, "  probe %s: %d of %d passed, the slowest in %v", p.Probe, p.Tries-p.Failures, p.Tries, p.Slowest.Round(time.Millisecond))
		if p.Last != "" {
			fmt.Fprintf(w, "; it failed with %s", p.Last)
		}
		fmt.Fprintln(w)
	}
}

func (d *driver) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what is missing for each container on this machine, ours or not", Args: arguments(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			all, err := d.all()
			if err != nil {
				return err
			}
			found := container.Doctor(all...)
			if err := d.print(found, func(w io.Writer) { printFindings(w, found) }); err != nil {
				return err
			}
			for _, f := range found {
				if len(f.Missing) > 0 {
					return exitStatus(cli.Red)
				}
			}
			return nil
		},
	}
}

// all returns the deployments of the state directory.
func (d *driver) all() ([]*container.Deployment, error) {
	state, err := d.stateDir()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(state, "deployments"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var all []*container.Deployment
	for _, e := range entries {
		all = append(all, &container.Deployment{Name: e.Name(), Dir: filepath.Join(state, "deployments", e.Name()), Runners: runners()})
	}
	return all, err
}

func printFindings(w io.Writer, found []container.Finding) {
	for _, f := range found {
		name := f.Deployment
		switch {
		case name == "" && f.Unit != "":
			name = "unit " + f.Unit
		case name == "":
			name = strings.TrimSpace("somebody's " + f.Script)
		}
		fmt.Fprintf(w, "%s: launcher %d, process %d\n", name, f.Launcher, f.Process)
		for _, m := range f.Missing {
			fmt.Fprintf(w, "  ! %s\n", m)
		}
	}
}

func (d *driver) confirmCommand() *cobra.Command {
	return d.on("confirm NAME", "Keep the generation that waits for it, as confirm-by in the file asks", cobra.ExactArgs(1),
		func(c *cobra.Command, dep *container.Deployment, _ []string) error { return dep.Confirm(c.Context()) })
}

func (d *driver) pinCommand() *cobra.Command {
	var not bool
	c := d.on("pin NAME GENERATION", "Keep a generation whatever the file says of keeping", cobra.ExactArgs(2),
		func(_ *cobra.Command, dep *container.Deployment, args []string) error {
			number, err := generationNumber(args[0])
			if err != nil {
				return err
			}
			return dep.Pin(number, !not)
		})
	c.Flags().BoolVar(&not, "undo", false, "no longer")
	return c
}
