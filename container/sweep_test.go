package container

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/genenetwork/guixci/internal/cgroup"
)

// What a process leaves that is killed at the worst of moments goes with the next command.
func TestSweep(t *testing.T) {
	d := testDeployment(t)
	one := mustApply(t, d, script(t, d, "works", "status-works.sexp"))
	in, err := d.Running()
	if err := errors.Join(err, in.stop(t.Context())); err != nil {
		t.Fatal(err)
	}
	next := &Generation{Number: 2, Script: one.Script}
	if err := errors.Join(os.MkdirAll(d.generationPath(2, "run"), 0o700), os.MkdirAll(d.generationPath(3), 0o700)); err != nil {
		t.Fatal(err)
	}
	leftovers := []string{d.path(".running.json.1234"), d.path(".current"), d.generationPath(1, ".generation.json.99"),
		d.generationPath(3, "root"), d.generationPath(3, ".generation.json.7"), d.generationPath(2, "run", ".unit.json.55")}
	for _, name := range leftovers {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Its control group is made, and nothing written down about it yet.
	group, err := cgroup.New((&Instance{Generation: next, d: d}).unit().Name, cgroup.Limits{})
	if err != nil {
		t.Log(err) // then there is none to be left
	}
	if err := errors.Join(d.writeGeneration(next), d.writeRecord(&record{Generation: 2, Previous: 1, Boot: bootID()})); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkRuns(t, d, one)
	for _, name := range append(leftovers, d.generationPath(3), d.generationPath(2, "run")) {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			rel, _ := filepath.Rel(d.Dir, name)
			t.Errorf("%s is left: %v", rel, err)
		}
	}
	if group != nil {
		for _, dir := range group.Dirs {
			if _, err := os.Stat(dir.Path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("control group %s is left: %v", dir.Path, err)
			}
		}
	}
}
