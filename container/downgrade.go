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

// weigh compares the channels of a revision with those of the current generation. It returns the revision with
// a downgrade that is allowed among its reasons; one that is not is a *[DowngradeError].
func (rev Revision) weigh(ctx context.Context, current *Generation) (Revision, error) {
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

// refuseDowngrade adds to a plan what [Revision.weigh] says.
func (p *Plan) refuseDowngrade(err error) error {
	var downgrade *DowngradeError
	if errors.As(err, &downgrade) {
		p.Refusals = append(p.Refusals, Refusal{"downgrade", err.Error()})
		return nil
	}
	return err
}
