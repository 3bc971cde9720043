package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/genenetwork/guixci/channel"
)

// stateDir returns where mirrors and caches are kept.
func (d *driver) stateDir() (string, error) {
	if d.state != "" {
		return d.state, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "guixci"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usage(fmt.Errorf("find the state directory: %w: say --state", err))
	}
	return filepath.Join(home, ".local/state/guixci"), nil
}

func (d *driver) repositories() (*channel.Repositories, error) {
	dir, err := d.stateDir()
	if err != nil {
		return nil, err
	}
	return &channel.Repositories{Dir: filepath.Join(dir, "repos"), Logger: d.logger()}, nil
}

// logger returns nil, which discards, unless somebody wants to know.
func (d *driver) logger() *slog.Logger {
	if !d.verbose {
		return nil
	}
	return slog.New(slog.NewTextHandler(d.stderr, nil))
}

// print writes an answer for programs.
func (d *driver) print(v any) error {
	e := json.NewEncoder(d.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (d *driver) printf(format string, args ...any) {
	fmt.Fprintf(d.stdout, format, args...)
}

func (d *driver) warnf(format string, args ...any) {
	fmt.Fprintf(d.stderr, program+": "+format+"\n", args...)
}
