package channel

import "fmt"

// Drift compares a file with a lock and returns a finding for every channel of the file that
// the lock has otherwise, or that the lock lacks and nothing pins. Nothing is asked of the network.
// [File.Pin] cures findings of code [Drift]; the others are for people to decide.
func (f *File) Drift(lock *Lock) []Finding {
	l := &linter{}
	locked := lock.List()
	for _, e := range f.items {
		at := place(f.Name, e.at)
		c, ok := locked.Named(e.Name)
		if !ok && !e.Commit.Complete() {
			l.find(Unpinned, e.Name, at, "add it to the list that the lock is made from, or pin it here",
				"channel %s %s, and the lock lacks it", e.Name, stands(e.Commit))
		}
		if !ok {
			continue
		}
		if e.Commit != c.Commit {
			l.find(Drift, e.Name, at, `run "guixci-channels sync"`, "channel %s %s, the lock has it at %s", e.Name, stands(e.Commit), c.Commit)
		}
		l.conflicts(&Declaration{Channel: c}, &Declaration{Channel: withoutCommit(e.withDefaults()), Place: at})
	}
	return sortFindings(l.findings)
}

func stands(c Commit) string {
	if c == "" {
		return "has no commit"
	}
	return fmt.Sprintf("stands at %q", string(c))
}

func withoutCommit(c Channel) Channel {
	c.Commit = ""
	return c
}
