package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A Switch says how a generation takes the place of the one before it.
// The zero value stops that, starts the new one, and changes nothing else.
type Switch struct {
	Mode Mode `json:"mode,omitempty"`
	// Traffic is run to have clients go to the ports of the generation, in the mode SideBySide
	// and after each start of it; a reload of a web server with another upstream, say. It is run
	// again, with old and new exchanged, to have them come back. New connections go to the new
	// ports when it has ended, or at most a second later.
	Traffic *Hook `json:"traffic,omitempty"`
	// Alternate is where every other generation listens, in the mode SideBySide.
	Alternate Alternate `json:"alternate,omitzero"`
	// Drain is how long connections to the old generation may last when it is stopped; 0 means 30 seconds.
	// It is stopped before once nobody has been connected, or tried to, for one second and a half.
	Drain time.Duration `json:"drain,omitempty"`
	// StopOld stops the old generation as soon as it is drained: there is no instant return.
	StopOld bool `json:"stop_old,omitempty"`
	// Hooks are run before the switch, in order.
	Hooks []Hook `json:"hooks,omitempty"`
	// Snapshot names writable mounts that are copied while nothing runs, before the hooks that
	// may change them. They come back when the switch fails; after a
	// later one, with [Revision.RestoreState]. One snapshot is kept, that of the current generation.
	Snapshot []string `json:"snapshot,omitempty"`
}

// A Switched says what a switch took. It is of the generation that was switched to.
type Switched struct {
	// Gap is the time for which nothing served: from the request to stop the old container to
	// the first time that all probes of the new one passed; 0 if there was no old one.
	Gap time.Duration `json:"gap,omitempty"`
	// Stop, Prepare and Start are its parts: the old container's end; snapshot and
	// hooks; start until the first success of the probes.
	Stop    time.Duration `json:"stop,omitempty"`
	Prepare time.Duration `json:"prepare,omitempty"`
	Start   time.Duration `json:"start,omitempty"`
	// Hooks are those that were run.
	Hooks []HookRun `json:"hooks,omitempty"`
	// Snapshot is the size in bytes on disk of the state that was copied.
	Snapshot int64 `json:"snapshot,omitempty"`
}

// String tells the gap for people.
func (s *Switched) String() string {
	if s == nil || s.Gap == 0 {
		return "nothing was interrupted"
	}
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("a gap of %v: stop %v, prepare %v, start %v", ms(s.Gap), ms(s.Stop), ms(s.Prepare), ms(s.Start))
}

// readSwitch are the fields of a deployment file for a [Switch].
func (d *Deployment) readSwitch() table {
	return table{
		"pre-switch…": func(f form) error {
			h, err := d.readHook(f)
			d.Switch.Hooks = append(d.Switch.Hooks, h)
			return err
		},
		"side-by-side": d.placed(d.readBeside),
		"snapshot": func(f form) error {
			if len(f.args) == 0 {
				return f.errorf("names no mount")
			}
			return d.placedTexts(&d.Switch.Snapshot)(f)
		},
	}
}

// print says what is done beside stopping and starting, in order.
func (s Switch) print(w io.Writer) {
	if s.Mode == SideBySide {
		fmt.Fprintf(w, "  side by side: traffic is moved by %s\n", strings.Join(s.Traffic.Command, " "))
	}
	for _, live := range []bool{true, false} {
		if !live && len(s.Snapshot) > 0 {
			fmt.Fprintf(w, "  then copy %s, which comes back if it fails\n", strings.Join(s.Snapshot, ", "))
		}
		for _, h := range s.Hooks {
			if h.Live == live {
				fmt.Fprintf(w, "  %s run %s\n", map[bool]string{true: "first", false: "then"}[live], strings.Join(h.Command, " "))
			}
		}
	}
}

// clone is for environments, which add to what they have in common.
func (s Switch) clone() Switch {
	s.Hooks, s.Snapshot = slices.Clone(s.Hooks), slices.Clone(s.Snapshot)
	return s
}

// checkSwitch returns why the switch cannot be as asked for.
func (d *Deployment) checkSwitch(g *Generation) error {
	hooks := slices.Clone(g.Switch.Hooks)
	if g.Switch.Traffic != nil {
		hooks = append(hooks, *g.Switch.Traffic)
	}
	var errs []error
	for _, h := range hooks {
		errs = append(errs, d.placing("hook "+h.String(), h.checkProgram()))
	}
	return errors.Join(errs...)
}

// switched is where to write down what the switch to g takes.
func (g *Generation) switched() *Switched {
	if g.Switched == nil {
		g.Switched = new(Switched)
	}
	return g.Switched
}

// errUntouched marks failures before the old generation was touched.
var errUntouched = errors.New("the old generation was not touched")

// replace stops what runs, starts next, and confirms it once it is healthy. The state
// of generation snapshotOf is put back in between, if that is not 0, in the place of hooks.
func (d *Deployment) replace(ctx context.Context, was standing, next *Generation, snapshotOf int) error {
	err := context.Cause(ctx)
	switch {
	case err != nil:
	case snapshotOf == 0:
		err = d.runHooks(ctx, was.current, next, true)
	case snapshotOf != was.number():
		err = fmt.Errorf("generation %d is no longer the current one", snapshotOf)
	}
	if err != nil {
		return fmt.Errorf("%w (%w)", err, errUntouched)
	}
	if err := d.endStandby(ctx, was); err != nil {
		return fmt.Errorf("%w (%w)", err, errUntouched)
	}
	in, err := d.poise(ctx, was, next)
	if err != nil {
		return fmt.Errorf("%w (%w)", err, errUntouched)
	}
	begin := time.Now()
	cleared, err := was.stop(context.WithoutCancel(ctx)) // its services have their time, whoever is in a hurry
	defer cleared()
	stopped := time.Now()
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		in.main, in.record.Trial, in.record.Previous = nil, false, was.previous()
		err = d.prepareState(ctx, was, in, snapshotOf)
	}
	if err != nil {
		return errors.Join(err, in.kill(context.WithoutCancel(ctx)))
	}
	prepared := time.Now()
	in, err = in.bring(ctx)
	if err == nil {
		if err = d.direct(ctx, was.current, next); err != nil {
			err = errors.Join(err, in.stop(context.WithoutCancel(ctx)))
		}
	}
	if err != nil {
		return err
	}
	s := next.switched()
	s.Stop, s.Prepare, s.Start = stopped.Sub(begin), prepared.Sub(stopped), in.well.Sub(prepared)
	if was.running != nil {
		s.Gap = in.well.Sub(begin)
	}
	if err := in.confirm(ctx); err != nil {
		return errors.Join(err, in.stop(context.WithoutCancel(ctx)))
	}
	return nil
}

// prepareState makes the state what the next instance is to find. No container runs. What is recorded first
// has a successor of this process undo it.
func (d *Deployment) prepareState(ctx context.Context, was standing, in *Instance, snapshotOf int) (err error) {
	next := in.Generation
	if len(next.Switch.Snapshot) == 0 && len(next.Switch.Hooks) == 0 {
		return nil
	}
	if err := in.save(); err != nil {
		return err
	}
	if next.switched().Snapshot, err = d.takeSnapshot(ctx, next, was.number()); err != nil {
		return err
	}
	if snapshotOf != 0 {
		return d.putBack(ctx, snapshotOf)
	}
	return d.runHooks(ctx, was.current, next, false)
}
