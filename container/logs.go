package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Logs writes what the container's shepherd and its services have said, or, with the name of
// a service, what that has: its log files, or else what the log has of it since the container began, or, if that is
// nothing, what shepherd remembers. Without a running container it is the log of the current generation.
//
// With follow it goes on with what is said until ctx ends or the container does, which is no error. It
// does not miss what is put aside; should that go, because w is slow, a line says so.
func (d *Deployment) Logs(ctx context.Context, w io.Writer, service string, follow bool) error {
	if err := d.logs(ctx, w, service, follow); err != nil && !(follow && ctx.Err() != nil) {
		return fmt.Errorf("show logs of %s: %w", d.Name, err)
	}
	return nil
}

func (d *Deployment) logs(ctx context.Context, w io.Writer, service string, follow bool) error {
	in, err := d.Running()
	if errors.Is(err, errStopped) && service == "" {
		return d.lastLog(w)
	}
	if err != nil {
		return err
	}
	if service != "" {
		return in.serviceLogs(ctx, w, service, follow)
	}
	t, err := in.openTail()
	if err != nil {
		return err
	}
	defer t.close()
	return in.repeat(ctx, follow, func() (bool, error) { return t.copy(w) })
}

func (d *Deployment) lastLog(w io.Writer) error {
	g, err := d.Current()
	if err == nil && g == nil {
		err = ErrNothing
	}
	if err != nil {
		return err
	}
	f, err := os.Open(d.generationPath(g.Number, "log"))
	if errors.Is(err, fs.ErrNotExist) {
		err = decline("generation %d has not run here", g.Number)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

func (in *Instance) serviceLogs(ctx context.Context, w io.Writer, name string, follow bool) error {
	services, err := in.services(ctx)
	if err != nil {
		return err
	}
	service, ok := find(services, name)
	if !ok {
		return &CommandError{Service: name, Action: "status", Kind: "service-not-found"}
	}
	if len(service.LogFiles) == 0 {
		return in.copyVoice(ctx, w, services, service, follow)
	}
	var files []*os.File
	for _, file := range service.LogFiles {
		fd, err := openInRoot(in.Process, file, uint64(os.O_RDONLY))
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), file)
		defer f.Close()
		files = append(files, f)
	}
	return in.repeat(ctx, follow, func() (bool, error) {
		for _, f := range files {
			if err := copyMore(w, f); err != nil {
				return false, err
			}
		}
		return true, nil
	})
}

// repeat calls the function until it has finished, and with follow until, after that, the container ends.
func (in *Instance) repeat(ctx context.Context, follow bool, f func() (finished bool, err error)) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		alive := in.Alive() // asked first, so that its last words are still copied
		if finished, err := f(); err != nil || finished && !(follow && alive) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// copyMore copies what has been added to a file. One that is shorter than what has been read
// was emptied, because it had grown too long: it is read from its beginning.
func copyMore(w io.Writer, f *os.File) error {
	read, err := f.Seek(0, io.SeekCurrent)
	if err == nil { // else it is a pipe
		if info, err := f.Stat(); err == nil && info.Size() < read {
			f.Seek(0, io.SeekStart)
		}
	}
	_, err = io.Copy(w, f)
	return err
}
