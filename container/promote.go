package container

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A DowngradeError is a promotion that would take channels back.
type DowngradeError struct{ Channels []string }

// ExitCode returns the status a program should end with.
func (e *DowngradeError) ExitCode() int { return Refused.ExitCode() }

func (e *DowngradeError) Error() string {
	return fmt.Sprintf("it would downgrade %s, or leave its history: that takes --allow-downgrades", strings.Join(e.Channels, ", "))
}

// A Promotion says how [Deployment.Promote] follows another deployment.
type Promotion struct {
	// From is what is followed: production follows CD.
	From *Deployment
	// Descends reports whether the commit of new has that of old, another one of the same
	// channel, in its history. Nil takes every other commit for a downgrade.
	Descends func(ctx context.Context, old, new Channel) (bool, error)
	// AllowDowngrade promotes all the same; the ledger says so.
	AllowDowngrade bool
	Who, Why       string
}

// Promote makes the very store item that is current, and so confirmed, in another deployment the
// running generation of this one, in the environment of this one. It is refused when
// there is none or that one does not run, or when a channel would go back.
func (d *Deployment) Promote(ctx context.Context, p Promotion) (*Generation, error) {
	rev, err := d.promotion(ctx, p)
	if err != nil {
		return nil, d.failed(Refused, err)
	}
	return d.Apply(ctx, rev)
}

// promotion returns the revision to apply.
func (d *Deployment) promotion(ctx context.Context, p Promotion) (Revision, error) {
	s, err := p.From.Status(ctx)
	if err != nil {
		return Revision{}, err
	}
	if s.Running == nil || !s.Confirmed {
		return Revision{}, fmt.Errorf("%s runs no confirmed generation", p.From.Name)
	}
	g := s.Current
	rev := Revision{Script: g.Script, Lock: g.Lock, Channels: g.Channels, Who: p.Who,
		Why: strings.TrimPrefix(fmt.Sprintf("%s; promotes generation %d of %s", p.Why, g.Number, p.From.Name), "; ")}
	err = d.checkDowngrade(ctx, p, g)
	var downgrade *DowngradeError
	if errors.As(err, &downgrade) && p.AllowDowngrade {
		rev.Why += "; downgrade of " + strings.Join(downgrade.Channels, ", ") + " allowed"
		err = nil
	}
	return rev, err
}

// checkDowngrade compares the channels of what runs here with those of g.
func (d *Deployment) checkDowngrade(ctx context.Context, p Promotion, g *Generation) error {
	current, err := d.Current()
	if err != nil || current == nil {
		return err
	}
	commits := make(map[string]Channel)
	for _, c := range g.Channels {
		commits[c.Name] = c
	}
	var back []string
	for _, old := range current.Channels {
		new, ok := commits[old.Name]
		if !ok || new.Commit == old.Commit {
			continue
		}
		follows := false
		if p.Descends != nil {
			if follows, err = p.Descends(ctx, old, new); err != nil {
				return fmt.Errorf("compare commits of channel %s: %w", old.Name, err)
			}
		}
		if !follows {
			back = append(back, old.Name)
		}
	}
	if len(back) > 0 {
		return &DowngradeError{back}
	}
	return nil
}
