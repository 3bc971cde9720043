package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/internal/cli"
)

// An authentication is what the flags of "authenticate" say.
type authentication struct {
	repository, commit, signer, end, keyring, branch, historical string
	strict, noCache                                              bool
}

func (d *driver) authenticateCommand() *cobra.Command {
	var a authentication
	c := &cobra.Command{
		Use:   "authenticate --commit INTRO --signer FINGERPRINT",
		Short: "Say whether the commits of a repository are to be believed",
		Long: `Say whether the commits of a git repository are to be believed, by the rules of
"guix git authenticate": from the introduction INTRO on, which must be signed by
FINGERPRINT, every commit must be signed by a key that its parents authorize.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return d.authenticate(c.Context(), a) },
	}
	f := c.Flags()
	f.StringVarP(&a.repository, "repository", "r", ".", "the repository, bare or with a work tree")
	f.StringVar(&a.commit, "commit", "", "the first commit to be believed")
	f.StringVar(&a.signer, "signer", "", "fingerprint of the key that signed it")
	f.StringVar(&a.end, "end", "", "authenticate up to this commit or tag (default HEAD)")
	f.StringVarP(&a.keyring, "keyring", "k", "keyring", "the branch with the public keys")
	f.StringVar(&a.branch, "branch", "", "with --strict, the branch that must contain the commit (default the current one)")
	f.StringVar(&a.historical, "historical-authorizations", "", "a file of keys authorized before .guix-authorizations was there")
	f.BoolVar(&a.strict, "strict", false, "refuse also what Guix does not look at: expired, revoked and weak keys, dates, the branch")
	f.BoolVar(&a.noCache, "no-cache", false, "check every commit again, and remember nothing")
	return c
}

func (d *driver) authenticate(ctx context.Context, how authentication) error {
	intro, err := how.introduction()
	if err != nil {
		return usage(err)
	}
	repo, err := channel.OpenLocal(how.repository)
	if err != nil {
		return usage(err)
	}
	defer repo.Close()
	if branch, err := repo.CurrentBranch(); err == nil && branch == how.keyring && how.end == "" {
		d.warnf("the current branch %q is the keyring: nothing to do", branch)
		return nil
	}
	c := channel.Channel{Name: "checkout of " + repo.URL, URL: repo.URL, Branch: how.branch, Introduction: intro}
	if err := how.complete(repo, &c); err != nil {
		return err
	}
	authenticator, err := d.authenticator(how)
	if err != nil {
		return err
	}
	result, err := authenticator.AuthenticateIn(ctx, repo, c)
	return d.report(result, err)
}

func (a authentication) introduction() (*channel.Introduction, error) {
	if a.commit == "" || a.signer == "" {
		return nil, errors.New("say where to begin: --commit INTRO --signer FINGERPRINT")
	}
	commit, err := channel.ParseCommit(a.commit)
	if err != nil {
		return nil, fmt.Errorf("--commit: %w", err)
	}
	signer, err := channel.ParseFingerprint(a.signer)
	if err != nil {
		return nil, fmt.Errorf("--signer: %w", err)
	}
	return &channel.Introduction{Commit: commit, Signer: signer}, nil
}

// complete finds the commit that is meant, and the branch it should be on.
func (a authentication) complete(repo *channel.Repository, c *channel.Channel) (err error) {
	if a.strict && c.Branch == "" {
		if c.Branch, err = repo.CurrentBranch(); err != nil {
			return usage(fmt.Errorf("%w: say --branch", err))
		}
	}
	if a.end != "" {
		if c.Commit, err = repo.Commit(a.end); err != nil {
			err = usage(fmt.Errorf("--end: %w", err))
		}
	} else {
		c.Commit, err = repo.Head()
	}
	return err
}

func (d *driver) authenticator(how authentication) (*channel.Authenticator, error) {
	a := &channel.Authenticator{Keyring: how.keyring, Strict: how.strict, Logger: d.logger()}
	if how.historical != "" {
		text, err := os.ReadFile(how.historical)
		if err == nil {
			a.Historical, err = channel.ReadAuthorizations(how.historical, text)
		}
		if err != nil {
			return nil, usage(err)
		}
	}
	if how.noCache {
		return a, nil
	}
	dir, err := d.stateDir()
	a.Cache = filepath.Join(dir, "authenticated")
	return a, err
}

// report says what was found. A refusal is an answer too.
func (d *driver) report(result *channel.Authentication, err error) error {
	var refused *channel.AuthError
	switch {
	case errors.As(err, &refused) && d.json:
		d.said = true
		return errors.Join(cli.ErrRed, err, d.print(map[string]any{"authentic": false, "refused": refused}))
	case err != nil:
		return err
	case d.json:
		return d.print(struct {
			Authentic bool `json:"authentic"`
			*channel.Authentication
		}{true, result})
	}
	d.printf("authentic: commit %s (%d commits checked)\n", result.Commit, result.Commits)
	for _, s := range result.Statistics {
		d.printf("  %s %7d  %s to %s  %s\n", s.Key, s.Commits,
			s.First.Format("2006-01-02"), s.Last.Format("2006-01-02"), s.Owner)
	}
	return nil
}
