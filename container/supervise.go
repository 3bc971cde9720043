package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"time"

	"github.com/genenetwork/guixci/internal/filelock"
)

// A Supervision says how [Deployment.Supervise] goes about it.
type Supervision struct {
	// RestartAfter is the wait before a container that has ended is started again, and
	// 0 means one second. Each time it ends again, or does not come up, the wait doubles, up to
	// RestartAtMost; 0 means one minute. One that has run for ten times RestartAtMost
	// is forgiven, and so is another generation. Ends that somebody has asked for do not count.
	RestartAfter, RestartAtMost time.Duration
	// LogSize is the number of bytes from which on the container's log is put aside; 0 means 16 MiB.
	LogSize int64
	// LogCount is how many logs are kept besides, as log.1 (the newest), log.2 and so on;
	// 0 means 4.
	LogCount int
	// UntilStopped ends the supervision once the container is stopped on purpose.
	// Otherwise it goes on, should it be started again.
	UntilStopped bool
}

func (s Supervision) withDefaults() Supervision {
	s.RestartAfter = cmp.Or(s.RestartAfter, time.Second)
	s.RestartAtMost = cmp.Or(s.RestartAtMost, time.Minute)
	s.LogSize = cmp.Or(s.LogSize, 16<<20)
	s.LogCount = cmp.Or(s.LogCount, 4)
	return s
}

// ErrSupervised is why a deployment cannot be supervised: somebody does so already.
var ErrSupervised = decline("it has a supervisor already")

// Supervise sees to it that what ought to run does, until ctx ends. A container
// that ends, or that did not survive the machine, is started again, with all that
// [Deployment.Start] does; what a killed deployer has left half done is set right; logs that
// grow are put aside. When ctx ends the container is stopped, in order, and nil is returned;
// it is still one that ought to run, and will when it is supervised again.
//
// It may run in the program that deploys or in another one, and be killed: the
// container runs on, and is found by the next supervisor.
// A deployment has one supervisor; the error of a second one wraps [ErrSupervised].
func (d *Deployment) Supervise(ctx context.Context, how Supervision) error {
	lock, err := d.superviseAlone()
	if err != nil {
		return fmt.Errorf("supervise %s: %w", d.Name, err)
	}
	defer lock.Release()
	k := &keeper{Deployment: d, Supervision: how.withDefaults()}
	defer k.listenNoMore()
	for ctx.Err() == nil {
		done, err := k.look(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			d.log().Error("cannot supervise", "error", err)
		}
		if done {
			return nil
		}
		k.pause(ctx)
	}
	if err := d.interrupt(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("supervise %s: %w", d.Name, err)
	}
	return nil
}

// superviseAlone takes the lock of the supervisor.
func (d *Deployment) superviseAlone() (*filelock.Lock, error) {
	if err := d.prepare(); err != nil {
		return nil, err
	}
	lock, err := filelock.Try(d.path("supervisor"))
	if errors.Is(err, filelock.ErrHeld) {
		return nil, ErrSupervised
	}
	return lock, err
}

// Supervised reports whether a supervisor is at work.
func (d *Deployment) Supervised() (bool, error) {
	_, held, err := filelock.Holder(d.path("supervisor"))
	return held, err
}

// A keeper is one run of Supervise.
type keeper struct {
	*Deployment
	Supervision

	kept    Process   // the container seen running last; zero for none
	standby Process   // the one beside it, likewise
	number  int       // of its generation, remembered when it has ended
	since   time.Time // when it was first seen
	wait    time.Duration
	notyet  time.Time               // when the next start may be tried
	instant *Instance               // what runs now; nil for nothing
	ears    map[Process]*substitute // of what runs
}

// superviseEvery is how often is looked at what others may have changed. The end of a
// container is seen at once.
const superviseEvery = time.Second

// pause waits for the container's end, or a while.
func (k *keeper) pause(ctx context.Context) {
	wait := superviseEvery
	if left := time.Until(k.notyet); k.instant == nil && left > 0 {
		wait = min(wait, left)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if k.instant == nil || k.instant.Process.wait(ctx) != nil {
		<-ctx.Done()
	}
}

// look compares what is with what ought to be, and acts. It is done when nothing more
// is to be supervised.
func (k *keeper) look(ctx context.Context) (done bool, err error) {
	k.instant = nil
	r, err := k.readRecord()
	if errors.Is(err, fs.ErrNotExist) || err == nil && r == nil {
		return k.UntilStopped, nil
	}
	if err != nil {
		return false, err
	}
	in, err := k.instance(r)
	if err != nil {
		return false, err
	}
	current, err := k.Current()
	if err != nil {
		return false, err
	}
	if in.Alive() && current != nil && current.Number == r.Generation && !r.Stopping && !r.ComingUp {
		k.sees(in)
		return false, errors.Join(k.listen(in), in.rotateLog(ctx, k.LogSize, k.LogCount), k.lookBeside(ctx, in), k.lookForRestart(ctx, in))
	}
	return false, errors.Join(k.listen(in), k.start(ctx, in))
}

// sees notes that the container runs.
func (k *keeper) sees(in *Instance) {
	k.instant = in
	if in.Process == k.kept {
		return
	}
	k.complain("let the container go on", in.thaw()) // the supervisor before may have been killed
	if in.Generation.Number != k.number {
		k.wait, k.notyet = 0, time.Time{}
	}
	k.kept, k.number, k.since = in.Process, in.Generation.Number, time.Now()
	k.log().Info("supervising", "generation", k.number, "pid", in.Process.PID)
}

// listen sees to it that somebody listens to a container, be it on trial, live, kept or about to end.
func (k *keeper) listen(in *Instance) error {
	maps.DeleteFunc(k.ears, func(p Process, ear *substitute) bool { return !p.Alive() && !ear.listens() })
	if !in.Alive() {
		return nil
	}
	ear := k.ears[in.Process]
	if ear == nil {
		ear = new(substitute)
		if k.ears == nil {
			k.ears = make(map[Process]*substitute)
		}
		k.ears[in.Process] = ear
	}
	return ear.look(in)
}

func (k *keeper) listenNoMore() {
	for _, ear := range k.ears {
		ear.close()
	}
}

// lookBeside looks after what runs beside the live container: the generation that is kept, as long as it is, and, but
// for its log, one on trial.
func (k *keeper) lookBeside(ctx context.Context, main *Instance) error {
	r := main.record.Beside
	if r == nil {
		return nil
	}
	in, err := k.instance(r)
	if err != nil {
		return err
	}
	err = k.listen(in)
	if r.Trial || r.Stopping || (standing{current: main.Generation, beside: in}).lingers() {
		// Unless somebody is at it, nobody will be: settle ends it.
		_, busy := k.startAgain(ctx)
		return errors.Join(err, unlessBusy(busy))
	}
	if err != nil || !in.Alive() {
		return err
	}
	if in.Process != k.standby {
		k.complain("let the container go on", in.thaw()) // the supervisor before may have been killed
		k.standby = in.Process
	}
	return in.rotateLog(ctx, k.LogSize, k.LogCount)
}

// lookForRestart has a restart of services finished by startAgain if whoever began it was killed.
func (k *keeper) lookForRestart(ctx context.Context, in *Instance) error {
	if _, err := os.Stat(in.restartingFile()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	_, err := k.startAgain(ctx)
	return unlessBusy(err)
}

// start starts the container if nobody else is about to do something, and if it is time.
// in is what is recorded, and does not run, or is on trial, coming up or about to end.
func (k *keeper) start(ctx context.Context, in *Instance) error {
	// Who ends a container writes that down before, and who has ended it, another process.
	if !k.kept.isZero() && in.Process == k.kept && !in.record.Stopping {
		if time.Since(k.since) > 10*k.RestartAtMost {
			k.wait = 0
		}
		k.delay()
	}
	k.kept = Process{}
	if time.Now().Before(k.notyet) {
		return nil
	}
	in, err := k.startAgain(ctx)
	if unlessBusy(err) != nil {
		k.delay()
	}
	if in != nil {
		k.sees(in)
	}
	return unlessBusy(err)
}

// unlessBusy returns nil for the error that somebody else is at work: he may be about to do the same, or the
// contrary, and it is looked at again soon.
func unlessBusy(err error) error {
	var busy *BusyError
	if errors.As(err, &busy) || errors.Is(err, errGivesWay) {
		return nil
	}
	return err
}

// delay puts the next start off, longer each time.
func (k *keeper) delay() {
	k.wait = min(max(2*k.wait, k.RestartAfter), k.RestartAtMost)
	k.notyet = time.Now().Add(k.wait)
	k.log().Warn("the container does not run", "next start after", k.wait)
}

// startAgain starts the current generation if it ought to run, and nobody wants otherwise meanwhile.
func (d *Deployment) startAgain(ctx context.Context) (*Instance, error) {
	ctx, release, err := d.yielding(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	rev := Revision{Who: "supervisor", Why: "it ought to run"}
	lease, err := d.acquire(rev.Who, rev.Why)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	in, err := d.startIf(ctx, rev, func(was standing) bool { return was.wanted })
	if err != nil && context.Cause(ctx) == errGivesWay {
		err = errGivesWay
	}
	return in, err
}

// interrupt stops what runs, without forgetting that it ought to. Somebody who changes it
// just now is waited for.
func (d *Deployment) interrupt(ctx context.Context) error {
	lease, err := filelock.Acquire(ctx, d.path("lease"))
	if err != nil {
		return err
	}
	defer lease.Release()
	was, err := d.settle(ctx)
	if err != nil || was.running == nil {
		return err
	}
	if was.beside != nil {
		if err := d.stopStandby(ctx, was); err != nil {
			return err
		}
	}
	d.complain("write down what is going to be stopped", was.running.willStop())
	if err := was.running.stop(ctx); err != nil {
		return err
	}
	d.tell(Revision{Who: "supervisor", Why: "it was asked to end"}, was.current, WasStopped, nil)
	return d.writeRecord(&record{Generation: was.current.Number})
}
