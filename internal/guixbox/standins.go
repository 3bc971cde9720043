package guixbox

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

var (
	//go:embed scheme/standins.scm
	standinsScript string
	//go:embed scheme/workload.scm
	workloadScript string
	//go:embed scheme/table.scm
	standinsTable string
)

// scriptDir is where the scripts are inside the box.
const scriptDir = "/var/lib/guixbox"

// standInsMark names a file in the root that says that the stand-ins of this
// version of the scripts are there.
func (b *Box) standInsMark() string {
	h := sha256.Sum256([]byte(standinsScript + workloadScript + standinsTable))
	return filepath.Join(b.rootDir(), scriptDir, "standins-"+hex.EncodeToString(h[:6]))
}

func (b *Box) hasStandIns() bool { return exists(b.standInsMark()) }

// upStandIns makes what the samples, the tests and the demo need. The caller has the lock.
func (b *Box) upStandIns(ctx context.Context, holder process) error {
	if b.hasStandIns() {
		return nil
	}
	b.say("making stand-ins for the packages that would have to be downloaded")
	for name, text := range map[string]string{
		"standins.scm": standinsScript, "workload.scm": workloadScript, "table.scm": standinsTable,
	} {
		if err := writeWhole(filepath.Join(b.rootDir(), scriptDir, name), []byte(text)); err != nil {
			return fmt.Errorf("make stand-ins: %v", err)
		}
	}
	drvs, err := guix(ctx, holder, "repl", scriptDir+"/workload.scm", scriptDir+"/table.scm")
	if err != nil {
		return fmt.Errorf("make stand-ins: %w", err)
	}
	if err := standIns(ctx, holder, strings.Fields(drvs)); err != nil {
		return err
	}
	if err := syncFileSystem(b.rootDir()); err != nil {
		return fmt.Errorf("make stand-ins: %v", err)
	}
	return writeWhole(b.standInsMark(), nil)
}

// StandIns makes stand-ins for the packages that the given derivations need,
// beyond those that Up makes. A package for which it knows none is an error that names it.
// The box must be up. Calls take turns.
func (b *Box) StandIns(ctx context.Context, drvs ...string) error {
	unlock, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	st, err := b.running()
	if err == nil && !st.Holder.alive() {
		err = errors.New("the box is down: run guixbox up")
	}
	if err != nil {
		return fmt.Errorf("make stand-ins: %v", err)
	}
	return standIns(ctx, st.Holder, drvs)
}

func standIns(ctx context.Context, holder process, drvs []string) error {
	args := append([]string{"repl", scriptDir + "/standins.scm", scriptDir + "/table.scm"}, drvs...)
	if _, err := guix(ctx, holder, args...); err != nil {
		return fmt.Errorf("make stand-ins: %w", err)
	}
	return nil
}

// guix runs a guix command in the box, which ends with this process, and returns its output.
func guix(ctx context.Context, holder process, args ...string) (string, error) {
	argv := enter(holder.PID, "guix", args)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = ownEnvironment()
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := runBound(ctx, cmd, nil); err != nil {
		return "", fmt.Errorf("%w: %s", cmp.Or(context.Cause(ctx), err), strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}
