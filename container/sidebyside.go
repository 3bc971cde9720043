package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A Mode is how one container follows another.
type Mode string

const (
	// Replace stops the old one before the new one starts: both may want the same ports and files.
	Replace Mode = ""
	// SideBySide starts the new one on other ports, moves the traffic once it is healthy, and keeps the
	// old one, with which [Deployment.RollBack] returns at once.
	SideBySide Mode = "side-by-side"
)

// An Alternate is where every other generation listens in the mode [SideBySide].
type Alternate struct {
	// Ports take the place of those of the environment. None of those may be among them.
	// A container with a network of its own may leave them as they are: empty.
	Ports []int `json:"ports,omitempty"`
	// Address takes the place of that of its own network.
	Address netip.Addr `json:"address,omitzero"`
	// Settings take the place of some of the environment, to tell the system of it.
	Settings map[string]string `json:"settings,omitempty"`
}

const defaultDrain = 30 * time.Second

// errReturned marks failures after which traffic was moved back to the old generation,
// errAstray those after which it could not be.
var (
	errReturned = errors.New("traffic was moved back")
	errAstray   = errors.New("traffic could not be moved back")
)

// other returns the generation as it is on the other ports. It is its own inverse.
func (g *Generation) other() *Generation {
	o := *g
	a := g.Switch.Alternate
	if len(a.Ports) > 0 {
		o.Environment.Ports, o.Switch.Alternate.Ports = a.Ports, g.Environment.Ports
	}
	if g.Environment.Network.isPrivate() {
		o.Environment.Network.Address, o.Switch.Alternate.Address = a.Address, g.Environment.Network.Address
	}
	o.Environment.Settings, o.Switch.Alternate.Settings = maps.Clone(g.Environment.Settings), maps.Clone(a.Settings)
	if o.Environment.Settings == nil {
		o.Environment.Settings = make(map[string]string)
	}
	for name, value := range a.Settings {
		o.Switch.Alternate.Settings[name] = o.Environment.Settings[name]
		o.Environment.Settings[name] = value
	}
	return &o
}

// like reports whether two generations are the same thing, on whichever ports.
func (g *Generation) like(h *Generation) bool {
	return g.Script == h.Script && (g.Bindings() == h.Bindings() ||
		g.Switch.Mode == SideBySide && g.other().Bindings() == h.Bindings())
}

// beside reports whether g is going to run at the same time as what there is.
func (g *Generation) beside(was standing) bool {
	return g.Switch.Mode == SideBySide && was.running != nil
}

// next returns what the revision would be run as in the place of what there is.
func (d *Deployment) next(rev Revision, was standing) *Generation {
	g := d.generation(rev)
	if !g.beside(was) {
		return g
	}
	if g.collides(was.running.Generation) {
		return g.other()
	}
	return g
}

// collides reports whether both want to be at the same place.
func (g *Generation) collides(h *Generation) bool {
	a, b := g.Environment, h.Environment
	if a.Network.isPrivate() || b.Network.isPrivate() {
		return a.Network.Address == b.Network.Address
	}
	return slices.ContainsFunc(a.Ports, func(port int) bool { return slices.Contains(b.Ports, port) })
}

// checkBeside returns why two generations cannot run at the same time.
func checkBeside(g *Generation) error {
	if g.Switch.Mode != SideBySide {
		return nil
	}
	s, e := g.Switch, g.Environment
	var errs []error
	switch private := e.Network.isPrivate(); {
	case private && (s.Traffic == nil || !s.Alternate.Address.IsValid() || !e.Network.Address.IsValid() || len(e.Ports) == 0):
		errs = append(errs, errors.New("side by side with a network takes ports, another address, and a hook that moves the traffic"))
	case private && (s.Alternate.Address == e.Network.Address || s.Alternate.Address.Is4() != e.Network.Address.Is4()):
		errs = append(errs, fmt.Errorf("address %v cannot be the other one of %v", s.Alternate.Address, e.Network.Address))
	case !private && (s.Traffic == nil || len(s.Alternate.Ports) == 0 || len(e.Ports) == 0):
		errs = append(errs, errors.New("side by side takes ports, other ports, and a hook that moves the traffic"))
	case !private && s.Alternate.Address.IsValid():
		errs = append(errs, errors.New("another address is for a container with a network of its own"))
	}
	for _, port := range s.Alternate.Ports {
		if slices.Contains(e.Ports, port) {
			errs = append(errs, fmt.Errorf("port %d cannot be the other port of itself", port))
		}
	}
	for name, value := range s.Alternate.Settings {
		if value == "" || e.Settings[name] == "" {
			errs = append(errs, fmt.Errorf("setting %q needs a value both here and on the other ports", name))
		}
	}
	if len(s.Snapshot) > 0 {
		errs = append(errs, errors.New("a snapshot is of state that nobody writes to, and the old generation goes on"))
	}
	return errors.Join(errs...)
}

// checkConcurrent returns which state both generations would write to.
func (d *Deployment) checkConcurrent(g *Generation, was standing) error {
	if !g.beside(was) {
		return nil
	}
	var errs []error
	for _, m := range g.Shares {
		for _, old := range was.running.Generation.Shares {
			if !m.Concurrent && overlap(m.Source, old.Source) {
				errs = append(errs, d.placing("mount "+m.Name, fmt.Errorf("mount %q would be written to by the old generation and the new one at the same time: say that its services can (concurrent? #t), or replace", m.Source)))
			}
		}
	}
	return errors.Join(errs...)
}

// sideBySide starts next beside what runs, and moves the traffic to it once it is healthy. On error
// the old generation has never stopped.
func (d *Deployment) sideBySide(ctx context.Context, was standing, next *Generation) error {
	begin := time.Now()
	in, err := d.bringBeside(ctx, was, next)
	if err != nil {
		return fmt.Errorf("%w (%w)", err, errUntouched)
	}
	next.switched().Start = in.well.Sub(begin)
	if err := d.takeOver(ctx, was, in); err != nil {
		ctx = context.WithoutCancel(ctx)
		if errors.Is(err, errReturned) {
			in.drain(ctx, time.Now())
		}
		return errors.Join(err, d.forgetBeside(in.main, in.stop(ctx)))
	}
	return nil
}

// bringBeside runs the hooks and starts next. On error nothing of it is left, or the record tells of it.
func (d *Deployment) bringBeside(ctx context.Context, was standing, next *Generation) (*Instance, error) {
	err := cmp.Or(context.Cause(ctx), d.endStandby(ctx, was))
	for _, live := range []bool{true, false} {
		if err == nil {
			err = d.runHooks(ctx, was.current, next, live)
		}
	}
	if err != nil {
		return nil, err
	}
	main := was.running.record
	in := d.future(next)
	in.record.Trial, in.main = true, main
	in, err = in.bring(ctx)
	if err != nil {
		return nil, errors.Join(err, d.clearBeside(context.WithoutCancel(ctx), main))
	}
	return in, nil
}

// clearBeside clears away what is recorded to run beside main, if anything is.
func (d *Deployment) clearBeside(ctx context.Context, main *record) error {
	if main.Beside == nil {
		return nil
	}
	in, err := d.instance(main.Beside)
	if err == nil {
		err = in.kill(ctx)
	}
	return d.forgetBeside(main, err)
}

// forgetBeside has the record forget what ran beside, unless stopping it has failed: whoever changes something next
// finds it there, and clears it away.
func (d *Deployment) forgetBeside(main *record, failed error) error {
	if failed != nil {
		return failed
	}
	main.Beside = nil
	return d.writeRecord(main)
}

// takeOver moves the traffic to an instance that runs beside, and makes it the current one. On
// error traffic is where it was, if the error is not errAstray.
func (d *Deployment) takeOver(ctx context.Context, was standing, in *Instance) error {
	in.record.Moved = true // from now on it may have moved
	err := in.save()
	if err == nil {
		err = d.direct(ctx, was.current, in.Generation)
	}
	if err == nil {
		err = in.confirm(ctx)
	}
	if err == nil {
		d.complain("write down that generations have changed places", d.changePlaces(was, in))
		if in.Generation.Switch.StopOld {
			d.complain("stop the old generation, which is kept", d.endStandby(ctx, standing{current: in.Generation, running: in, beside: was.running}))
		}
		return nil
	}
	in.record.Moved = false
	if back := d.direct(context.WithoutCancel(ctx), in.Generation, was.current); back != nil {
		return fmt.Errorf("%w (%w: %w)", err, errAstray, back)
	}
	return errors.Join(fmt.Errorf("%w (%w)", err, errReturned), in.save())
}

// changePlaces makes the record be of the new current generation, and the old one its standby.
func (d *Deployment) changePlaces(was standing, in *Instance) error {
	old := was.running
	in.record.Trial, in.record.Moved, in.record.Beside = false, false, old.record
	old.record.Beside = nil
	in.main, old.main = nil, in.record
	return d.writeRecord(in.record)
}

// direct has the traffic moved to a generation.
func (d *Deployment) direct(ctx context.Context, old, new *Generation) error {
	if new.Switch.Traffic == nil {
		return nil
	}
	return d.runHook(ctx, *new.Switch.Traffic, new, hookEnvironment(d.Name, old, new))
}

// endStandby stops the generation that was kept, once nobody is connected to it. When ctx ends before, it is kept on.
func (d *Deployment) endStandby(ctx context.Context, was standing) error {
	if was.beside == nil {
		return nil
	}
	if err := was.beside.drain(ctx, was.current.Started); err != nil {
		return err
	}
	return d.stopStandby(ctx, was)
}

func (d *Deployment) stopStandby(ctx context.Context, was standing) error {
	d.complain("write down what is going to be stopped", was.beside.willStop())
	return d.forgetBeside(was.running.record, was.beside.stop(ctx))
}

// comeBack returns to the generation that was kept, if that is what the revision is and it is
// still well; nil means that it is not.
func (d *Deployment) comeBack(ctx context.Context, rev Revision, was standing) (*Generation, error) {
	if was.beside == nil || rev.snapshotOf != 0 || was.beside.Generation.Rejected != "" ||
		!d.generation(rev).like(was.beside.Generation) {
		return nil, nil
	}
	in := was.beside
	if err := in.await(ctx, in.Generation.Probes, in.Generation.Schedule.ofOld()); err != nil {
		d.log().Warn("the generation that was kept is not well", "generation", in.Generation.Number, "error", err)
		return nil, nil
	}
	in.main = was.running.record
	in.Generation.Switched = nil
	d.complain("write down what is gone back from", d.willWithdraw(in.Generation.Number, rev.back, was.number()))
	d.tell(rev, in.Generation, Began, nil)
	if err := d.takeOver(ctx, was, in); err != nil {
		result := d.failed(RolledBack, err)
		event := WasRolled
		if errors.Is(err, errAstray) {
			result.Outcome, event = RollbackFailed, WasLost
		}
		d.tell(rev, in.Generation, event, result)
		return nil, result
	}
	d.tell(rev, in.Generation, Confirmed, nil)
	d.complain("write down what was gone back from", d.withdraw(in.Generation.Number))
	return in.Generation, nil
}

// settleBeside sets right what a process that was killed has left beside what runs, and returns
// the generation that is kept, if there is one.
func (d *Deployment) settleBeside(ctx context.Context, r *record, current *Generation) (*Instance, error) {
	if r.Beside == nil {
		return nil, nil
	}
	if current != nil && current.Number == r.Beside.Generation { // confirmed, and cut off right then
		old := *r
		*r, old.Beside = *r.Beside, nil
		r.Trial, r.Moved, r.Beside = false, false, &old
	}
	in, err := d.instance(r.Beside)
	if err != nil {
		return nil, err
	}
	in.main = r
	d.unfreeze(in)
	if r.Beside.Moved {
		main, err := d.Generation(r.Generation)
		if err == nil {
			err = d.direct(context.WithoutCancel(ctx), in.Generation, main)
		}
		d.complain("move the traffic back", err)
		in.drain(ctx, time.Now())
		r.Beside.Moved = false
	}
	if !r.Beside.Trial && !r.Beside.Stopping && in.Alive() {
		return in, d.writeRecord(r)
	}
	clear := in.kill
	if r.Beside.Stopping && in.Alive() {
		clear = in.stop
	}
	if err := d.forgetBeside(r, clear(context.WithoutCancel(ctx))); err != nil {
		return nil, fmt.Errorf("clear away generation %d, which ran beside: %w", in.Generation.Number, err)
	}
	return nil, nil
}

// atSide returns what is recorded beside what runs, be it a launcher yet that waits for its turn; nil for nothing.
func (d *Deployment) atSide() (*Instance, error) {
	r, err := d.readRecord()
	if err != nil || r == nil || r.Beside == nil {
		return nil, err
	}
	return d.instance(r.Beside)
}

// kept returns what runs beside what runs; nil for nothing.
func (d *Deployment) kept() (*Instance, error) {
	in, err := d.atSide()
	if err != nil || in == nil || !in.Alive() {
		return nil, err
	}
	return in, nil
}

// quiet is how long nobody must have been connected to what is going to be stopped. A client elsewhere that a
// server had no room for asks again after a second, and one that has just been told where the
// traffic goes may be slow to go there.
const quiet = 1500 * time.Millisecond

// drain waits until nobody is connected to the ports of the instance any more, as long as its
// switch says. The traffic was moved away at some time before moved. The error is about ctx.
func (in *Instance) drain(ctx context.Context, moved time.Time) error {
	limited, cancel := context.WithTimeoutCause(ctx, cmp.Or(in.Generation.Switch.Drain, defaultDrain), errConnected)
	defer cancel()
	limited, release := in.whileAlive(limited)
	defer release()
	log := in.d.log().With("generation", in.Generation.Number)
	told := false
	awaitQuiet(limited, moved, func() bool {
		some, err := in.connected()
		if err != nil && !told {
			log.Warn("who is connected cannot be found out: waiting as long as a drain may take", "error", err)
		} else if some && !told {
			log.Info(waitsForClients)
		}
		told = told || some || err != nil
		return some || err != nil
	})
	if errors.Is(context.Cause(limited), errConnected) {
		log.Warn("stopping a container", "reason", errConnected)
	}
	return context.Cause(ctx)
}

const waitsForClients = "somebody is connected to the old container: waiting"

var errConnected = errors.New("a drain may take no longer, although somebody is connected")

// awaitQuiet returns once nobody has been busy for a while, and not since a time, or when ctx ends.
func awaitQuiet(ctx context.Context, since time.Time, busy func() bool) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	if now := time.Now(); since.After(now) {
		since = now // the clock was set
	}
	for {
		if busy() {
			since = time.Now()
		} else if time.Since(since) >= quiet {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// readBeside reads (side-by-side FIELD…).
func (d *Deployment) readBeside(f form) error {
	s := &d.Switch
	s.Mode = SideBySide
	var traffic Hook
	other := Deployment{places: d.places}
	err := f.fields(0, table{
		"move-traffic": func(f form) (err error) { traffic, err = d.readHook(f); return err },
		"ports":        other.Environment.readPorts, "settings": other.readSettings, "address": toAddress(&s.Alternate.Address),
		"drain": toDuration(&s.Drain), "stop-old?": toBool(&s.StopOld),
	})
	s.Alternate.Ports, s.Alternate.Settings = other.Environment.Ports, other.Environment.Settings
	if err == nil && len(traffic.Command) == 0 {
		err = f.errorf("has no hook move-traffic")
	}
	s.Traffic = &traffic
	return err
}
