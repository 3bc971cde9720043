package guixbox

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

//go:embed hold.sh
var holdScript string

// shared are the host's top directories that the root does not have itself.
func shared() ([]string, error) {
	own := []string{"bin", "boot", "dev", "etc", "gnu", "lib", "lib32", "lib64", "libo32", "libx32",
		"lost+found", "proc", "run", "sbin", "sys", "usr", "var"}
	entries, err := os.ReadDir("/")
	if err != nil {
		return nil, fmt.Errorf("list directories to share: %v", err)
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(own, e.Name()) && !strings.HasPrefix(e.Name(), ".") {
			dirs = append(dirs, "/"+e.Name())
		}
	}
	return dirs, nil
}

// hold starts the process that holds the box's mount namespace.
func (b *Box) hold(ctx context.Context) (*guarded, error) {
	dirs, err := shared()
	if err != nil {
		return nil, err
	}
	// sh -c SCRIPT keeps standard input free for the word.
	g, err := start(ctx, exec.Command("unshare", append([]string{"--mount", "--propagation", "private",
		"/bin/sh", "-c", holdScript, "hold.sh", b.rootDir()}, dirs...)...))
	if err != nil {
		return nil, fmt.Errorf("hold box: %w", err)
	}
	return g, nil
}
