package channel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Code names a kind of [Finding]. The names are stable.
type Code string

// What the linter finds.
const (
	Unpinned                Code = "unpinned"                 // no commit: another one tomorrow
	FloatingPin             Code = "floating-pin"             // a tag or an abbreviation, which can move
	ConflictingURL          Code = "conflicting-url"          // two declarations of one name differ
	ConflictingBranch       Code = "conflicting-branch"       //
	ConflictingCommit       Code = "conflicting-commit"       //
	ConflictingIntroduction Code = "conflicting-introduction" //
	TransitiveGap           Code = "transitive-gap"           // Guix bug 68797
	MissingIntroduction     Code = "missing-introduction"     // used unauthenticated
	PinNotOnBranch          Code = "not-on-branch"            // its branch does not have the commit
	PinNotContained         Code = "pin-not-contained"        // the commit in use lacks what somebody asked for
	StaleMirror             Code = "stale-mirror"             // the channel says it lives elsewhere
	UnknownKey              Code = "unknown-key"              // Guix ignores it
	IncompleteDependency    Code = "incomplete-dependency"    // Guix dies of it
	Unreadable              Code = "unreadable"               // a .guix-channel that Guix refuses
	Drift                   Code = "drift"                    // another commit than in the lock
)

// A Finding is something that is wrong with a channel list, or will be.
type Finding struct {
	Code    Code   `json:"code"`
	Channel string `json:"channel,omitempty"`
	Place   Place  `json:"place"`
	Message string `json:"message"` // what is wrong
	Remedy  string `json:"remedy"`  // what to do
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s (%s)", f.Place, f.Message, f.Remedy, f.Code)
}

// Lint resolves the channels of a file and returns what is wrong with them, sorted by
// place. What Guix never reports is found too: two declarations of one name
// that differ, and dependencies it will not load (bug 68797). A .guix-channel that cannot be
// read is a finding too; the explanation is then what it would be without that file.
func (r *Resolver) Lint(ctx context.Context, f *File) ([]Finding, *Explanation, error) {
	l := linter{ctx: ctx, resolver: r}
	e, err := r.explain(ctx, f.List(), f.Places(), f.metadata == nil, func(bad *unreadableError) {
		l.findings = append(l.findings, lintUnreadable(bad.text, bad.SyntaxError)...)
	})
	if err != nil {
		return nil, nil, err
	}
	l.Explanation = e
	if f.metadata != nil {
		l.findings = lintMetadata(f.Name, f.text)
		l.gap("", f.metadata.Dependencies, Place{File: f.Name})
	}
	for _, c := range e.Lock.Channels {
		if err := l.channel(c); err != nil {
			return nil, nil, err
		}
	}
	return sortFindings(l.findings), e, nil
}

func sortFindings(all []Finding) []Finding {
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Place.File, b.Place.File), cmp.Compare(a.Place.Line, b.Place.Line), cmp.Compare(a.Code, b.Code),
			cmp.Compare(a.Place.Column, b.Place.Column), cmp.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(all, func(a, b Finding) bool { return a == b })
}

// LintError returns what is wrong with the text of a file that could not be read, because of
// err. It is nil when err is not about what is written in a file.
func LintError(text []byte, err error) []Finding {
	var syntax *sexp.SyntaxError
	if !errors.As(err, &syntax) {
		return nil
	}
	return sortFindings(lintUnreadable(text, syntax))
}

// lintUnreadable finds err, unless that is something it has a code for, and what else there is.
func lintUnreadable(text []byte, err *sexp.SyntaxError) []Finding {
	all, at := lintMetadata(err.File, text), place(err.File, err.Pos)
	if !slices.ContainsFunc(all, func(f Finding) bool { return f.Place == at && f.Code == IncompleteDependency }) {
		all = append(all, Finding{Code: Unreadable, Place: at, Message: err.Msg, Remedy: "correct the file"})
	}
	return all
}

// A linter looks at one explanation.
type linter struct {
	*Explanation
	ctx      context.Context
	resolver *Resolver
	findings []Finding
}

func (l *linter) find(code Code, channel string, at Place, remedy, format string, args ...any) {
	l.findings = append(l.findings, Finding{Code: code, Channel: channel, Place: at,
		Message: fmt.Sprintf(format, args...), Remedy: remedy})
}

// channel looks at one channel of the lock.
func (l *linter) channel(c LockedChannel) error {
	i := l.instances[c.Name]
	winner := i.declaration
	l.pin(c, winner.Place)
	if c.Introduction == nil {
		l.find(MissingIntroduction, c.Name, winner.Place, "add its introduction, which the channel's manual should give",
			"channel %s has no introduction: whatever the server sends is believed", c.Name)
	}
	if i.metadata.URL != "" && i.metadata.URL != c.URL && c.Pin == "" {
		l.find(StaleMirror, c.Name, winner.Place, "use that url, or pin the channel",
			"channel %s comes from %q but says that it lives at %q: this may be a stale mirror", c.Name, c.URL, i.metadata.URL)
	}
	for _, d := range l.Of(c.Name)[1:] {
		l.conflicts(winner, d)
		if err := l.contains(i, d); err != nil {
			return err
		}
	}
	if text, err := i.repo.File(i.commit, metadataName); err == nil { // again what was found unreadable
		l.findings = append(l.findings, lintMetadata(i.repo.metadataName(i.commit), text)...)
	}
	l.gap(c.Name, i.metadata.Dependencies, Place{File: i.repo.metadataName(i.commit)})
	return l.onBranch(c, i)
}

func (l *linter) pin(c LockedChannel, at Place) {
	switch {
	case c.Pin == "":
		l.find(Unpinned, c.Name, at, `pin it: "guixci-channels lock --write", or "sync" for a .guix-channel`,
			"channel %s has no commit: tomorrow it may be another one", c.Name)
	case !c.Pin.Complete():
		l.find(FloatingPin, c.Name, at, fmt.Sprintf("write %s", c.Commit),
			"channel %s stands at %q, which can move", c.Name, c.Pin)
	}
}

// conflicts compares a declaration that lost with the one that won. Guix does not.
func (l *linter) conflicts(winner, d *Declaration) {
	name, a, b := d.Channel.Name, winner.Channel, d.Channel
	differ := func(code Code, what, mine, theirs string) {
		l.find(code, name, d.Place, "make the two agree",
			"channel %s has %s %s here but %s in %s", name, what, theirs, mine, winner.who())
	}
	if a.URL != b.URL {
		differ(ConflictingURL, "url", fmt.Sprintf("%q", a.URL), fmt.Sprintf("%q", b.URL))
	}
	if a.branch() != b.branch() {
		differ(ConflictingBranch, "branch", a.branch(), b.branch())
	}
	if a.Commit != b.Commit && b.Commit != "" {
		differ(ConflictingCommit, "commit", string(a.Commit), string(b.Commit))
	}
	if mine, theirs := a.Introduction.String(), b.Introduction.String(); mine != theirs && b.Introduction != nil {
		differ(ConflictingIntroduction, "introduction", mine, theirs)
	}
}

// String returns the commit and its signer for people.
func (i *Introduction) String() string {
	if i == nil {
		return "(none)"
	}
	return i.Commit.Short() + " by " + i.Signer.String()
}

// contains asks whether the commit in use has what a declaration that lost asks for.
func (l *linter) contains(i *instance, d *Declaration) error {
	wanted := d.Channel.Commit
	if !wanted.Complete() || wanted == i.commit {
		return nil
	}
	ok, err := i.repo.IsAncestor(l.ctx, wanted, i.commit)
	if err == nil && !ok {
		l.find(PinNotContained, d.Channel.Name, d.Place, "use a newer commit, or correct this pin",
			"channel %s is used at %s, which does not contain the commit %s wanted here", d.Channel.Name, i.commit.Short(), wanted.Short())
	}
	return err
}

// gap finds the channels that a channel needs but does not name: of a channel Guix
// puts only the direct dependencies on the load path (bug 68797, present in 1.5.0).
func (l *linter) gap(name string, direct List, at Place) {
	seen := map[string]bool{name: true, guixName: true}
	for _, c := range direct {
		seen[c.Name] = true
	}
	for work := slices.Clone(direct); len(work) > 0; work = work[1:] {
		i := l.instances[work[0].Name]
		if i == nil {
			continue
		}
		for _, c := range i.metadata.Dependencies {
			if seen[c.Name] {
				continue
			}
			seen[c.Name] = true
			work = append(work, c)
			l.find(TransitiveGap, cmp.Or(name, c.Name), at, "add it to the dependencies in this file, until Guix bug 68797 is fixed",
				"channel %s is needed through %s but is not named: its modules will not be found", c.Name, work[0].Name)
		}
	}
}

// onBranch asks whether the branch of a channel still has the pinned commit.
func (l *linter) onBranch(c LockedChannel, i *instance) error {
	if c.Pin == "" {
		return nil
	}
	repo, err := l.resolver.Repositories.Fetch(l.ctx, c.URL)
	if err != nil {
		return err
	}
	name := c.branch()
	if !strings.HasPrefix(name, "refs/") {
		name = "refs/heads/" + name
	}
	ok := false
	if head, headErr := repo.head(name); headErr == nil {
		ok, err = repo.IsAncestor(l.ctx, c.Commit, head)
	}
	if err == nil && !ok {
		l.find(PinNotOnBranch, c.Name, i.declaration.Place, "choose a commit of the branch, or correct the branch",
			"channel %s stands at %s, which is not on branch %q", c.Name, c.Commit.Short(), c.branch())
	}
	return err
}

// metadataKeys are what Guix looks at in a .guix-channel, and dependencyKeys in each of
// the dependencies.
var (
	metadataKeys   = []sexp.Symbol{"version", "directory", "url", "news-file", "keyring-reference", "dependencies"}
	dependencyKeys = []sexp.Symbol{"name", "url", "branch", "commit", "introduction"}
)

// lintMetadata looks at the text of a .guix-channel alone.
func lintMetadata(name string, text []byte) []Finding {
	v, err := firstDatum(name, text)
	top, _ := v.(*sexp.List)
	if err != nil || !isMetadata(v) {
		return nil
	}
	l := &linter{}
	l.unknownKeys(name, top, metadataKeys, "")
	for _, item := range top.Items[1:] {
		property, _ := item.(*sexp.List)
		if dependencies, ok := sexp.Tagged(item, "dependencies"); ok {
			for i, d := range dependencies {
				l.dependency(name, d, property.At[i+1])
			}
		}
	}
	return l.findings
}

func (l *linter) dependency(file string, v sexp.Value, at sexp.Pos) {
	d, ok := v.(*sexp.List)
	if !ok || len(d.Items) == 0 {
		l.find(IncompleteDependency, "", place(file, at), "write (channel (name …) (url …))", "%.40s is not a dependency", v)
		return
	}
	field, _ := sexp.Field(d, "name")
	name, _ := sexp.Text(field)
	for _, key := range []sexp.Symbol{"name", "url"} {
		if _, ok := sexp.Field(d, key); !ok {
			l.find(IncompleteDependency, name, place(file, at), "add ("+string(key)+" …)", "a dependency has no %s", key)
		}
	}
	l.unknownKeys(file, d, dependencyKeys, name)
}

func (l *linter) unknownKeys(file string, list *sexp.List, known []sexp.Symbol, channel string) {
	for i, item := range list.Items[1:] {
		property, _ := sexp.Items(item)
		var key sexp.Symbol
		if len(property) > 0 {
			key, _ = property[0].(sexp.Symbol)
		}
		if !slices.Contains(known, key) {
			l.find(UnknownKey, channel, place(file, list.At[i+1]), "remove or correct it", "Guix ignores %.40s", item)
		}
	}
}
