package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/channel"
)

// A source is how the user's files are read.
type source struct {
	guix       []string
	noEvaluate bool
}

func (s *source) flags(c *cobra.Command) {
	c.Flags().StringSliceVar(&s.guix, "guix", nil, "the guix that evaluates a FILE that is a program (default \"guix\")")
	c.Flags().BoolVar(&s.noEvaluate, "no-evaluate", false, "refuse a FILE that is a program")
}

// channels returns the channels of a file and, when it is plain Scheme data, the file as
// it is written. Every error is about what the user gave.
func (s *source) channels(ctx context.Context, name string) (channel.List, *channel.File, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, usage(err)
	}
	f, err := channel.ReadFile(name, text)
	if err == nil {
		return f.List(), f, nil
	}
	var program *channel.NotDataError
	if channel.IsMetadata(text) || filepath.Base(name) == ".guix-channel" || errors.As(err, &program) && s.noEvaluate {
		return nil, nil, usage(err)
	}
	evaluator := channel.Evaluator{Guix: s.guix}
	list, readErr := evaluator.Read(ctx, name)
	if readErr != nil {
		return nil, nil, usage(readErr)
	}
	return list, nil, nil
}

// readLock reads a lock: JSON of ours, or any list whose commits are complete.
func readLock(name string) (*channel.Lock, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, usage(err)
	}
	defer f.Close()
	lock, err := channel.ReadLock(name, f)
	if err != nil {
		return nil, usage(err)
	}
	return lock, nil
}
