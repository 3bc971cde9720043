package store_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// dial connects to the machine's daemon.
func dial(t testing.TB) *store.Client {
	t.Helper()
	guixtest.Require(t)
	c, err := store.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// run returns the lines that a command prints.
func run(t testing.TB, name string, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

func TestAddAndAskGuix(t *testing.T) {
	c := dial(t)
	ctx := t.Context()

	inner, err := c.AddText(ctx, "inner", []byte("inner\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("see " + string(inner) + "\n")
	outer, err := c.AddText(ctx, "outer", text, []store.StorePath{inner})
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.PathInfo(ctx, outer)
	if err != nil {
		t.Fatal(err)
	}
	refs := run(t, "guix", "gc", "--references", string(outer))
	if diff := cmp.Diff([]string{string(inner)}, refs); diff != "" {
		t.Errorf("references (-want +guix):\n%s", diff)
	}
	if !slices.Equal(info.References, []store.StorePath{inner}) {
		t.Errorf("references %q, want %q", info.References, inner)
	}
	if valid, err := c.Valid(ctx, outer); err != nil || !valid {
		t.Errorf("valid: %v, %v", valid, err)
	}
}

// A daemon that listens on a port does the same over it.
func TestTCP(t *testing.T) {
	guixtest.Require(t)
	address := fmt.Sprintf("127.0.0.1:%d", guixtest.FreePort(t))
	d := storetest.StartDaemon(t, storetest.DaemonOptions{Args: []string{"--listen=" + address}})
	c, err := store.Dial(t.Context(), "guix://"+address)
	if err != nil {
		t.Fatalf("%v\n%s", err, d.Log())
	}
	defer c.Close()
	b := storetest.New(t, c).Add(storetest.Spec{Name: "far", Script: "echo by wire; echo >$out"})
	var log strings.Builder
	err = c.Build(t.Context(), []store.StorePath{b.Derivation}, store.BuildOptions{}, func(e store.Event) {
		if e.PID != 0 {
			log.WriteString(e.Text)
		}
	})
	if err != nil || log.String() != "by wire\n" {
		t.Errorf("log %q, %v", log.String(), err)
	}
	if info, err := c.PathInfo(t.Context(), b.Out()); err != nil || info.Deriver != b.Derivation {
		t.Errorf("%+v %v", info, err)
	}
}
