package container

import (
	"context"
	"errors"
	"fmt"
)

// follow refuses a revision that brings another store item than the one that is confirmed, and runs well just now, where
// the deployment follows, if it does. What is allowed all the same is among the reasons of the revision that it returns. The
// item that is current here already is not brought: other mounts or settings may be given to it at any time.
func (d *Deployment) follow(ctx context.Context, rev Revision, current *Generation) (Revision, error) {
	if d.Follows == nil || current != nil && current.Script == rev.Script {
		return rev, nil
	}
	if d.Follows.Dir == "" || d.Follows.Dir == d.Dir {
		return rev, &RefusalError{"follows", d.placing("follows", fmt.Errorf("deployment %q, which is followed, is in no place of its own", d.Follows.Name))}
	}
	confirmed, err := d.Follows.Current()
	if err != nil {
		return rev, err
	}
	var reason error
	fault := "is not confirmed"
	switch {
	case confirmed == nil:
		reason = fmt.Errorf("%s is not what is confirmed in %s, which is followed: nothing is", rev.Script, d.Follows.Name)
	case confirmed.Script != rev.Script:
		reason = fmt.Errorf("%s is not what is confirmed in %s, which is followed: generation %d, %s, is", rev.Script, d.Follows.Name, confirmed.Number, confirmed.Script)
	default:
		_, err := d.Follows.exemplary(ctx)
		var unfit declined
		if !errors.As(err, &unfit) {
			return rev, err
		}
		fault, reason = "does not run well", fmt.Errorf("what is followed is no example: %w", err)
	}
	if rev.AllowUnconfirmed {
		rev.Why = because(rev.Why, fmt.Sprintf("what %s in %s allowed", fault, d.Follows.Name))
		return rev, nil
	}
	return rev, &RefusalError{"follows", d.placing("follows", reason)}
}

// A following is what an environment of a file says it follows.
type following struct {
	form               form
	follower, followed string
}

// follow has an environment follow another one, once all are known.
func (file *File) follow(f following) error {
	followed := file.Environments[f.followed]
	if followed == nil {
		return f.form.errorAt(0, "there is no environment %q", f.followed)
	}
	for d := followed; d != nil; d = d.Follows {
		if d.Environment.Name == f.follower {
			return f.form.errorAt(0, "%q would follow itself", f.follower)
		}
	}
	file.Environments[f.follower].Follows = followed
	return nil
}
