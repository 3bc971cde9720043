package container

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A DowngradeError is a revision that would take channels back.
type DowngradeError struct{ Channels []string }

func (e *DowngradeError) Error() string {
	return fmt.Sprintf("it would downgrade %s, or leave its history, which nobody has allowed", strings.Join(e.Channels, ", "))
}

// ExitCode returns the status a program should end with.
func (e *DowngradeError) ExitCode() int { return Refused.ExitCode() }

// weigh refuses a revision for what it is: see [Deployment.follow] and [Revision.compare]. It returns the revision with what
// is allowed all the same among its reasons.
func (d *Deployment) weigh(ctx context.Context, rev Revision, current *Generation) (Revision, error) {
	rev, err := d.follow(ctx, rev, current)
	if err != nil {
		return rev, err
	}
	return rev.compare(ctx, current)
}

// compare compares the channels of a revision with those of the current generation. A downgrade that is not allowed is
// a *[DowngradeError].
func (rev Revision) compare(ctx context.Context, current *Generation) (Revision, error) {
	if rev.Descends == nil || current == nil {
		return rev, nil
	}
	back, err := rev.takesBack(ctx, current.Channels)
	switch {
	case err != nil || len(back) == 0:
		return rev, err
	case !rev.AllowDowngrade:
		return rev, &DowngradeError{back}
	}
	rev.Why = because(rev.Why, fmt.Sprintf("downgrade of %s allowed", strings.Join(back, ", ")))
	return rev, nil
}

// takesBack returns the channels that would go back.
func (rev Revision) takesBack(ctx context.Context, current []Channel) ([]string, error) {
	commits := make(map[string]Channel)
	for _, c := range rev.Channels {
		commits[c.Name] = c
	}
	var back []string
	for _, old := range current {
		new, ok := commits[old.Name]
		if !ok || new.Commit == old.Commit {
			continue
		}
		follows, err := rev.Descends(ctx, old, new)
		if err != nil {
			return nil, fmt.Errorf("compare commits of channel %s: %w", old.Name, err)
		}
		if !follows {
			back = append(back, old.Name)
		}
	}
	return back, nil
}

// because adds a reason to another one, which may be empty.
func because(why, also string) string { return strings.TrimPrefix(why+"; "+also, "; ") }

// refuseWhatItIs adds to a plan what [Deployment.weigh] says.
func (p *Plan) refuseWhatItIs(err error) error {
	var downgrade *DowngradeError
	var refusal *RefusalError
	switch {
	case errors.As(err, &downgrade):
		p.Refusals = append(p.Refusals, Refusal{"downgrade", err.Error()})
	case errors.As(err, &refusal):
		p.refuse(err)
	default:
		return err
	}
	return nil
}
