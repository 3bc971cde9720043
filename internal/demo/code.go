package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/samples"
)

// This file has the steps from a commit to a profile.

type guixFound struct {
	Version string `json:"version"`
	Where   string `json:"where"` // "box" or "host"
}

func (f guixFound) String() string { return fmt.Sprintf("GNU Guix %s (%s)", f.Version, f.Where) }

func (s *story) guix(ctx context.Context) (fmt.Stringer, error) {
	text, err := output(ctx, nil, "guix", "--version")
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(first)
	if len(fields) == 0 {
		return nil, wrong("guix --version prints %q", first)
	}
	if !guixbox.OnHost(ctx) {
		return nil, errors.New("guix-daemon does not answer: is it running?")
	}
	where := "host"
	if guixbox.Inside() {
		where = "box"
	}
	return guixFound{fields[len(fields)-1], where}, s.open(ctx)
}

type lockFound struct {
	Digest   string                  `json:"digest"`
	Channels channel.List            `json:"channels"`
	Declared map[string]string       `json:"declaredBy"`
	lock     []channel.LockedChannel `json:"-"`
}

func (f lockFound) String() string {
	var all []string
	for _, c := range f.lock {
		text := c.Name + " " + c.Commit.Short()
		if c.DeclaredBy != "" {
			text += " (of " + c.DeclaredBy + ")"
		}
		all = append(all, text)
	}
	return fmt.Sprintf("%s; digest %.12s…", strings.Join(all, ", "), f.Digest)
}

func (s *story) resolve(ctx context.Context) (fmt.Stringer, error) {
	lock, err := s.pipeline.Lock(ctx, s.spec)
	if err != nil {
		return nil, err
	}
	s.lock = lock
	found := lockFound{Digest: lock.Digest(), Channels: lock.List(), Declared: map[string]string{}, lock: lock.Channels}
	for _, c := range lock.Channels {
		if !c.Commit.Complete() {
			return found, wrong("channel %s is locked at %q, which is no whole commit", c.Name, c.Commit)
		}
		if c.DeclaredBy != "" {
			found.Declared[c.Name] = c.DeclaredBy
		}
	}
	if _, ok := lock.List().Named(samples.Channel); !ok {
		return found, wrong("the lock lacks %s, on which %s depends", samples.Channel, samples.Project)
	}
	return found, nil
}

type authFound struct {
	Commits int            `json:"commits"`
	Signers map[string]int `json:"signers"`
	Forged  channel.Commit `json:"forged"`
	Rule    channel.Rule   `json:"rule"`
	Detail  string         `json:"detail"`
}

func (f authFound) String() string {
	return fmt.Sprintf("%d commits authentic; forged %s refused: %s (%s)", f.Commits, f.Forged.Short(), f.Detail, f.Rule)
}

func (s *story) authenticate(ctx context.Context) (fmt.Stringer, error) {
	seen, err := s.pipeline.Authenticate(ctx, s.lock)
	if err != nil {
		return nil, err
	}
	found := authFound{Signers: map[string]int{}}
	for _, a := range seen {
		found.Commits += a.Commits + 1 // and the introduction
		for key, n := range a.Signers {
			found.Signers[key.String()] += n
		}
	}
	var branch string
	if branch, found.Forged, err = s.samples.Forge(); err != nil {
		return found, err
	}
	refusal, err := s.authenticateForged(ctx, branch)
	if err != nil {
		return found, err
	}
	found.Rule, found.Detail = refusal.Rule, refusal.Detail
	return found, s.compareVerdicts(ctx, found.Forged)
}

// authenticateForged returns why the head of the side branch is refused.
func (s *story) authenticateForged(ctx context.Context, branch string) (*channel.AuthError, error) {
	forged := s.spec
	forged.Channels = slices.Clone(s.lock.List())
	for i := range forged.Channels {
		if c := &forged.Channels[i]; c.Name == samples.Channel {
			c.Branch, c.Commit = branch, ""
		}
	}
	lock, err := s.pipeline.Lock(ctx, forged)
	if err != nil {
		return nil, err
	}
	_, err = s.pipeline.Authenticate(ctx, lock)
	var refusal *channel.AuthError
	if !errors.As(err, &refusal) {
		return nil, wrong("the forged commit of branch %s is not refused: %v", branch, err)
	}
	return refusal, nil
}

// compareVerdicts asks Guix about the authentic head and the forged one.
func (s *story) compareVerdicts(ctx context.Context, forged channel.Commit) error {
	honest, _ := s.lock.List().Named(samples.Channel)
	for _, c := range []struct {
		end  channel.Commit
		good bool
	}{{honest.Commit, true}, {forged, false}} {
		_, err := output(ctx, []string{"HOME=" + s.path("home"), "XDG_CACHE_HOME=" + s.path("home", "cache")},
			"guix", "git", "authenticate", string(honest.Introduction.Commit), honest.Introduction.Signer.String(),
			"-r", s.samples.Repo(samples.Channel).Dir, "-k", "keyring", "--end="+string(c.end), "--cache-key=guixci-demo")
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if (err == nil) != c.good {
			return wrong("guix git authenticate does not agree about commit %s: %v", c.end, err)
		}
	}
	return nil
}

type pullFound struct {
	Profile  string       `json:"profile"`
	Describe channel.List `json:"describe"`
}

func (f pullFound) String() string {
	return fmt.Sprintf("%s; guix describe names the %d commits of the lock", filepath.Base(f.Profile), len(f.Describe))
}

func (s *story) pull(ctx context.Context) (fmt.Stringer, error) {
	profile, err := s.pipeline.Pull(ctx, s.lock)
	if err != nil {
		return nil, err
	}
	found := pullFound{Profile: profile.Item}
	text, err := output(ctx, nil, profile.Guix(), "describe", "-f", "channels")
	if err != nil {
		return found, err
	}
	if found.Describe, err = channel.ReadList("guix describe", strings.NewReader(text)); err != nil {
		return found, err
	}
	if len(found.Describe) != len(s.lock.Channels) {
		return found, wrong("guix describe names %d channels, the lock %d", len(found.Describe), len(s.lock.Channels))
	}
	for _, c := range s.lock.Channels {
		d, _ := found.Describe.Named(c.Name)
		if d.Commit != c.Commit || d.URL != c.URL || d.Introduction == nil || *d.Introduction != *c.Introduction {
			return found, wrong("guix describe has channel %s at %s, the lock at %s", c.Name, d.Commit, c.Commit)
		}
	}
	return found, nil
}
