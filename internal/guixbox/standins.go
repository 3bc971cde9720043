package guixbox

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
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

// standInsMark names a file in the root that says that the stand-ins of this
// version of the scripts are there.
func (b *Box) standInsMark() string {
	h := sha256.Sum256([]byte(standinsScript + workloadScript + standinsTable))
	return filepath.Join(b.rootDir(), "var/lib/guixbox/standins-"+hex.EncodeToString(h[:6]))
}

func (b *Box) hasStandIns() bool { return exists(b.standInsMark()) }

// standIns makes what the samples, the tests and the demo need.
func (b *Box) standIns(ctx context.Context) error {
	if b.hasStandIns() {
		return nil
	}
	b.say("making stand-ins for the packages that would have to be downloaded")
	const dir = "/var/lib/guixbox/"
	for name, text := range map[string]string{
		"standins.scm": standinsScript, "workload.scm": workloadScript, "table.scm": standinsTable,
	} {
		if err := os.WriteFile(filepath.Join(b.rootDir(), dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("make stand-ins: %v", err)
		}
	}
	drvs, err := b.output(ctx, "guix", "repl", dir+"workload.scm", dir+"table.scm")
	if err != nil {
		return fmt.Errorf("make stand-ins: %w", err)
	}
	if err := b.StandIns(ctx, strings.Fields(drvs)...); err != nil {
		return err
	}
	return os.WriteFile(b.standInsMark(), nil, 0o644)
}

// StandIns makes stand-ins for the packages that the given derivations need,
// beyond those that Up makes. A package for which it knows none is an error that names it.
func (b *Box) StandIns(ctx context.Context, drvs ...string) error {
	const dir = "/var/lib/guixbox/"
	args := append([]string{"repl", dir + "standins.scm", dir + "table.scm"}, drvs...)
	if _, err := b.output(ctx, "guix", args...); err != nil {
		return fmt.Errorf("make stand-ins: %w", err)
	}
	return nil
}

func (b *Box) output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := b.Command(ctx, name, args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", cmp.Or(context.Cause(ctx), err), strings.TrimSpace(complaint.String()))
	}
	return string(out), nil
}
