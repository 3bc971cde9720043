package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Renaming is an account, of a user or a group, that goes on under another name: it may keep its number, and
// what that owns. It holds in both directions, so that one can go back.
type Renaming struct {
	Old string `json:"old"`
	New string `json:"new"`
}

// readRenamed reads (renamed OLD NEW).
func (d *Deployment) readRenamed(f form) error {
	var names []string
	if err := toTexts(&names)(f); err != nil {
		return err
	}
	if len(names) != 2 {
		return f.errorf("wants two names, the old one and the new one, has %d", len(names))
	}
	d.Renamed = append(d.Renamed, Renaming{names[0], names[1]})
	return nil
}

// checkIDs compares the numbers of accounts with who owns what is kept.
func (d *Deployment) checkIDs(ctx context.Context, g *Generation, next *System, was standing) error {
	users, groups, err := d.accountsBefore(ctx, was, next)
	if err != nil {
		d.log().Warn("cannot compare account numbers", "error", err)
		return nil
	}
	renamed := slices.Clone(d.handlingOf(g).Renamed)
	if was.current != nil {
		renamed = append(renamed, was.current.Handling.Renamed...)
	}
	moved := shifts{users: users.shifted(next.Users, renamed), groups: groups.shifted(next.Groups, renamed)}
	for _, m := range g.Shares {
		if err := moved.check(ctx, m); err != nil {
			return d.placing("mount "+m.Name, err)
		}
	}
	return nil
}

// holders are the accounts that have a number, or had it when it was last given to any.
type holders map[int]holder

type holder struct {
	names []string
	gone  bool // of an older system: the last one has no such number
}

// add adds the accounts of a system, to those of later ones.
func (h holders) add(ids IDs, gone bool) {
	mine := make(holders)
	for name, id := range ids {
		mine[id] = holder{append(mine[id].names, name), gone}
	}
	for id, one := range mine {
		if _, later := h[id]; !later {
			slices.Sort(one.names)
			h[id] = one
		}
	}
}

// accountsBefore asks the running container, or else the store. Where there are new accounts in the next system, it
// asks for those of all generations, too: a number that is free now may have been somebody's.
func (d *Deployment) accountsBefore(ctx context.Context, was standing, next *System) (users, groups holders, err error) {
	users, groups = make(holders), make(holders)
	if was.current == nil {
		return users, groups, nil
	}
	u, g, err := d.accountsNow(ctx, was)
	if err != nil {
		return nil, nil, err
	}
	users.add(u, false)
	groups.add(g, false)
	if !u.lack(next.Users) && !g.lack(next.Groups) {
		return users, groups, nil
	}
	all, err := d.Generations()
	asked := map[string]bool{was.current.Script: true}
	for _, older := range slices.Backward(all) {
		if asked[older.Script] {
			continue
		}
		asked[older.Script] = true
		s, err := ReadSystem(ctx, d.Closures, older.Script)
		if err != nil { // it may have been collected
			d.log().Warn("cannot ask for the account numbers of an older generation", "generation", older.Number, "error", err)
			continue
		}
		users.add(s.Users, true)
		groups.add(s.Groups, true)
	}
	return users, groups, err
}

// accountsNow asks the running container, or else the store.
func (d *Deployment) accountsNow(ctx context.Context, was standing) (users, groups IDs, err error) {
	if was.running != nil {
		if users, groups, err = accountsOf(was.running.Process); err == nil {
			return users, groups, nil
		}
	}
	s, err := ReadSystem(ctx, d.Closures, was.current.Script)
	if err != nil {
		return nil, nil, err
	}
	return s.Users, s.Groups, nil
}

// lack reports whether others has an account that is not there.
func (ids IDs) lack(others IDs) bool {
	for name := range others {
		if _, ok := ids[name]; !ok {
			return true
		}
	}
	return false
}

// shifted returns the numbers that are no longer those of who had them, if these have other ones
// or somebody else has theirs.
func (h holders) shifted(new IDs, renamed []Renaming) map[int]string {
	heirs := make(map[int][]string)
	for name, id := range new {
		heirs[id] = append(heirs[id], name)
	}
	moved := make(map[int]string)
	for id, held := range h {
		heirs := heirs[id]
		slices.Sort(heirs)
		if slices.ContainsFunc(held.names, func(old string) bool { return slices.Contains(heirs, old) || isRenamed(old, heirs, renamed) }) {
			continue
		}
		name := held.names[0]
		now, stays := new[name]
		switch {
		case stays && !held.gone:
			moved[id] = fmt.Sprintf("is %s, who would be %d: give the account a fixed number in the operating system", name, now)
		case len(heirs) > 0:
			verb := map[bool]string{false: "is", true: "was"}[held.gone]
			moved[id] = fmt.Sprintf("%s %s, and would be %s: give the new account another, fixed, number in the operating system, or, if it is the same by another name, say (renamed %q %q)",
				verb, name, strings.Join(heirs, ", "), name, heirs[0])
		}
	}
	return moved
}

func isRenamed(old string, heirs []string, renamed []Renaming) bool {
	return slices.ContainsFunc(renamed, func(r Renaming) bool {
		return r.Old == old && slices.Contains(heirs, r.New) || r.New == old && slices.Contains(heirs, r.Old)
	})
}

// shifts are the numbers that have changed hands, with what has become of them.
type shifts struct{ users, groups map[int]string }

// check looks in a mount for files of accounts whose number would change: they would
// belong to nobody, or to somebody else. It looks at all files: the one that it left out would be lost.
func (s shifts) check(ctx context.Context, m Mount) error {
	if len(s.users)+len(s.groups) == 0 {
		return nil
	}
	return filepath.WalkDir(m.Source, func(name string, _ fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(name, &st)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has just gone
		}
		if err != nil {
			return fmt.Errorf("whose files there are in mount %q cannot be found out, and numbers of accounts have changed: %w", m.Source, err)
		}
		return s.checkFile(name, st)
	})
}

func (s shifts) checkFile(name string, st unix.Stat_t) error {
	if who, ok := s.users[int(st.Uid)]; ok {
		return fmt.Errorf("%s belongs to user %d, which %s", name, st.Uid, who)
	}
	if who, ok := s.groups[int(st.Gid)]; ok {
		return fmt.Errorf("%s belongs to group %d, which %s", name, st.Gid, who)
	}
	return nil
}
