package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/substitute"
)

type substitutesFound struct {
	Server  string               `json:"server"`
	Item    substitute.StorePath `json:"item"`
	Refused string               `json:"refused"` // what the daemon said without our key
	Hash    substitute.Hash      `json:"narHash"` // before and after
}

func (f substitutesFound) String() string {
	return fmt.Sprintf("%s deleted, refused without our key, fetched back from %s with it", f.Item.Name(), f.Server)
}

// substitutes deletes an output and has a stock guix-daemon fetch it back from our
// server: in vain as long as it does not authorize our key.
func (s *story) substitutes(ctx context.Context) (fmt.Stringer, error) {
	j, ok := s.report.Job(job("sample-talker"))
	if !ok || j.Status != record.Succeeded {
		return nil, wrong("sample-talker was not built")
	}
	drv, err := store.ReadDerivation(store.StorePath(j.Derivation))
	if err != nil {
		return nil, err
	}
	found := substitutesFound{Server: s.server, Item: drv.Outputs[0].Path}
	before, err := s.pipeline.Store().PathInfo(ctx, found.Item)
	if err != nil {
		return found, err
	}
	found.Hash = before.NarHash
	daemon, err := s.stockDaemon(ctx)
	if err != nil {
		return found, err
	}
	defer daemon.Close()
	if err := s.delete(ctx, found.Item); err != nil {
		return found, err
	}
	fetch := store.BuildOptions{UseSubstitutes: true, SubstituteURLs: []string{s.server}}
	var refusal *store.DaemonError
	err = daemon.EnsurePath(ctx, found.Item, fetch, nil)
	if !errors.As(err, &refusal) {
		return found, wrong("fetch without our key authorized: %v, though it should be refused", err)
	}
	found.Refused = refusal.Message
	if err := s.authorize(ctx); err != nil {
		return found, err
	}
	daemon.Release() // "guix substitute" reads the list of keys when a connection first needs it
	return found, s.fetchBack(ctx, daemon, fetch, before)
}

func (s *story) fetchBack(ctx context.Context, daemon *store.Pool, fetch store.BuildOptions, before *store.PathInfo) error {
	if err := daemon.EnsurePath(ctx, before.StorePath, fetch, nil); err != nil {
		return fmt.Errorf("fetch with our key authorized: %w", err)
	}
	after, err := s.pipeline.Store().PathInfo(ctx, before.StorePath)
	if err != nil {
		return err
	}
	if after.NarHash != before.NarHash {
		return wrong("%s came back with hash %s instead of %s", before.StorePath, after.NarHash, before.NarHash)
	}
	return nil
}

// delete removes an item from the store, which takes letting go of its root.
func (s *story) delete(ctx context.Context, item substitute.StorePath) error {
	if err := os.Remove(s.path("state", "roots", item.Base())); err != nil {
		return fmt.Errorf("let go of %s: %w", item, err)
	}
	return s.pipeline.Store().Do(ctx, func(c *store.Client) error {
		gone, err := c.Delete(ctx, item)
		if err == nil && len(gone.Paths) != 1 {
			err = wrong("delete %s: it is still in the store", item)
		}
		return err
	})
}

// configuration is the directory that takes the place of /etc/guix for the stock
// daemon: the machine's own list of authorized keys is not touched.
func (s *story) configuration() string { return s.path("daemon", "etc") }

// authorize has Guix authorize our key, as a user would.
func (s *story) authorize(ctx context.Context) error {
	key, err := os.Open(s.path("state", "keys", "signing-key.pub"))
	if err != nil {
		return fmt.Errorf("authorize our key: %w", err)
	}
	defer key.Close()
	cmd := exec.CommandContext(ctx, "guix", "archive", "--authorize")
	cmd.Env = append(os.Environ(), "GUIX_CONFIGURATION_DIRECTORY="+s.configuration())
	cmd.Stdin = key
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("authorize our key: %w: %s", err, out)
	}
	return nil
}

// stockDaemon starts a guix-daemon beside the machine's, on the same store, that
// believes nobody yet.
func (s *story) stockDaemon(ctx context.Context) (*store.Pool, error) {
	if err := os.MkdirAll(s.configuration(), 0o755); err != nil {
		return nil, fmt.Errorf("start guix-daemon: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.configuration(), "acl"), []byte("(acl)\n"), 0o644); err != nil {
		return nil, fmt.Errorf("start guix-daemon: %w", err)
	}
	socket := s.path("daemon", "socket")
	args := []string{"--listen=" + socket, "--build-users-group=guixbuild", "--substitute-urls=" + s.server}
	if guixbox.Inside() {
		args = append(args, "--disable-chroot")
	}
	log, err := os.Create(s.path("daemon", "log"))
	if err != nil {
		return nil, fmt.Errorf("start guix-daemon: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("guix-daemon", args...)
	cmd.Env = append(os.Environ(), "GUIX_CONFIGURATION_DIRECTORY="+s.configuration())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start guix-daemon: %w", err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	s.cleanup(func(context.Context) error {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		return nil
	})
	if err := awaitSocket(ctx, socket, ended); err != nil {
		return nil, fmt.Errorf("start guix-daemon: %w: %s", err, lastLines(s.path("daemon", "log")))
	}
	return &store.Pool{Address: socket}, nil
}

func awaitSocket(ctx context.Context, socket string, ended <-chan struct{}) error {
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ended:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-retry.C:
		}
	}
}

// lastLines returns the end of a file, for an error.
func lastLines(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > 500 {
		f.Seek(-500, io.SeekEnd)
	}
	text, _ := io.ReadAll(f)
	return strings.TrimSpace(string(text))
}
