package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/genenetwork/guixci/internal/filelock"
)

// A Beside is what a generation gets when it runs beside the one that is live, in the place of
// what it had then.
type Beside struct {
	// Ports take the place of its own; empty means those of its other side, if it was to run in the
	// mode [SideBySide] and its own are taken, or else its own.
	Ports []int
	// Address takes the place of that of its own network, likewise.
	Address netip.Addr
	// Settings are set, or set otherwise.
	Settings map[string]string
	// Sources are the directories of the host for some of its mounts, by their names.
	Sources map[string]string
}

// RunBeside runs an older generation beside what runs, to look at it. It calls ready once that is
// healthy; when ctx ends, or the container does, which is an error, it is stopped, and nothing of it is left.
// The generation is not made the current one, and no hook is run.
//
// What the preflight refuses is refused here, too: it can have neither the ports of the live
// generation, nor write to its state, unless the mount is Concurrent. Probes from outside
// that have nothing to do with a setting are left out: it is the live one that answers there.
//
// If this process is killed, the container goes with the next change of the deployment.
// The error is an *[Error] if the container does not become healthy.
func (d *Deployment) RunBeside(ctx context.Context, number int, as Beside, ready func(*Instance)) error {
	other, rev, err := d.aside(number, as)
	if err != nil {
		return fmt.Errorf("run generation %d of %s: %w", number, d.Name, err)
	}
	lock, err := d.claim(other)
	if err != nil {
		return fmt.Errorf("run generation %d of %s: %w", number, d.Name, err)
	}
	_, err = other.Apply(ctx, rev)
	if err == nil {
		err = other.watch(ctx, ready)
	}
	return errors.Join(err, other.vanish(context.WithoutCancel(ctx), lock))
}

// aside returns the deployment that a generation becomes to run beside, and itself as a revision of that.
func (d *Deployment) aside(number int, as Beside) (*Deployment, Revision, error) {
	old, err := d.Generation(number)
	if err != nil {
		return nil, Revision{}, err
	}
	if in, err := d.Running(); err == nil && old.Switch.Mode == SideBySide && len(as.Ports) == 0 && !as.Address.IsValid() && old.collides(in.Generation) {
		old = old.other()
	}
	other := d.besideAt(number)
	other.Shares, other.Exposes, other.Environment = slices.Clone(old.Shares), slices.Clone(old.Exposes), old.Environment
	other.handle(old, nil)
	other.Schedule, other.Switch, other.ConfirmBy, other.Keep = old.Schedule, Switch{}, 0, Retention{}
	if len(as.Ports) > 0 {
		other.Environment.Ports = as.Ports
	}
	if as.Address.IsValid() {
		other.Environment.Network.Address = as.Address
	}
	other.Environment.Settings = maps.Clone(old.Environment.Settings)
	if other.Environment.Settings == nil {
		other.Environment.Settings = make(map[string]string)
	}
	maps.Copy(other.Environment.Settings, as.Settings)
	other.Probes = old.Probes.ofAny()
	for name, source := range as.Sources {
		if !setSource(other.Shares, name, source) && !setSource(other.Exposes, name, source) {
			return nil, Revision{}, decline("it has no mount %q", name)
		}
	}
	return other, Revision{Script: old.Script, Lock: old.Lock, Channels: old.Channels, Why: "run beside", Force: true}, nil
}

func (d *Deployment) besideAt(number int) *Deployment {
	other := *d
	other.Name = fmt.Sprintf("%s-beside-%d", d.Name, number)
	other.Dir, other.live = d.path("beside", strconv.Itoa(number)), d.Dir
	other.places = nil
	return &other
}

func setSource(mounts []Mount, name, source string) bool {
	i := slices.IndexFunc(mounts, func(m Mount) bool { return m.Name == name })
	if i >= 0 {
		mounts[i].Source = source
	}
	return i >= 0
}

// ofAny returns the probes that look at the very container they are asked about, wherever it listens.
func (p Probes) ofAny() Probes {
	return slices.DeleteFunc(slices.Clone(p), func(probe Probe) bool {
		switch q := probe.(type) {
		case HTTP:
			return !q.Inside && !strings.Contains(q.URL, "${")
		case TCP:
			return !q.Inside && !strings.Contains(q.Address, "${")
		}
		return false
	})
}

// claim takes the lock that tells others that somebody looks after other. Nobody clears it away
// meanwhile: see sweepBeside.
func (d *Deployment) claim(other *Deployment) (*filelock.Lock, error) {
	lease, err := d.acquire("", "run beside")
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	return other.superviseAlone()
}

// watch returns the reason of the container's end, or nil when ctx ends.
func (d *Deployment) watch(ctx context.Context, ready func(*Instance)) error {
	in, err := d.Running()
	if err != nil {
		return err
	}
	if ready != nil {
		ready(in)
	}
	alive, release := in.whileAlive(ctx)
	defer release()
	<-alive.Done()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(alive)
}

// vanish stops the container, removes all that there is of the deployment, and releases its lock.
func (d *Deployment) vanish(ctx context.Context, lock *filelock.Lock) error {
	err := d.Stop(ctx)
	if err == nil {
		entries, e := os.ReadDir(d.Dir)
		err = e
		for _, e := range entries {
			if e.Name() != filepath.Base(lock.File().Name()) { // it must not become another one's
				err = errors.Join(err, os.RemoveAll(d.path(e.Name())))
			}
		}
	}
	lock.Release()
	if err == nil {
		os.Remove(d.Dir) // somebody may have begun anew
		os.Remove(filepath.Dir(d.Dir))
	}
	return err
}

// lookedAt returns what runs beside and somebody looks after, and what nobody does any more.
func (d *Deployment) lookedAt() (kept, left []*Instance) {
	found, _ := numbersIn(d.path("beside")) // in part is better than not at all
	for _, number := range found {
		other := d.besideAt(number)
		in, err := other.Running()
		if err != nil {
			continue
		}
		if held, _ := other.Supervised(); held {
			kept = append(kept, in)
		} else {
			left = append(left, in)
		}
	}
	return kept, left
}

// sweepBeside clears away what ran beside and nobody looks after any more. Whoever calls it holds the lease.
func (d *Deployment) sweepBeside(ctx context.Context) error {
	found, err := numbersIn(d.path("beside"))
	for _, number := range found {
		other := d.besideAt(number)
		lock, e := other.superviseAlone()
		if errors.Is(e, ErrSupervised) {
			continue
		}
		if e == nil {
			e = other.vanish(ctx, lock)
		}
		err = errors.Join(err, e)
	}
	return err
}
