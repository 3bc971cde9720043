package channel_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// latestInstances is a program for "guix repl" that has Guix fetch, authenticate and
// merge the channels of files, and writes their names and commits, a list for each.
const latestInstances = `
(use-modules (guix channels) (guix store) (guix ui))
(with-store store
  (for-each
   (lambda (file)
     (let ((channels (load* file (make-user-module '((guix channels))))))
       (write (map (lambda (i)
                     (list (channel-name (channel-instance-channel i)) (channel-instance-commit i)))
                   (latest-channel-instances store channels)))
       (newline)))
   (cdr (command-line))))
`

// TestGuixMergesTheSame has Guix resolve the lists whose locks the other tests
// check: cloning our repositories, authenticating, and in the same order.
func TestGuixMergesTheSame(t *testing.T) {
	guixtest.Require(t)
	guix, guixIntro := newRepo(t, map[string]string{"build-aux/build-self.scm": ";; looked at before it is patched\n"})
	low, lowIntro := newRepo(t, nil)
	second := commit(t, low, "master", map[string]string{"f": "1"})
	if err := low.SetBranch("devel", lowIntro.Commit); err != nil {
		t.Fatal(err)
	}
	devel := commit(t, low, "devel", map[string]string{"f": "2"})
	if err := low.Tag("v1", lowIntro.Commit, "Version 1."); err != nil {
		t.Fatal(err)
	}
	at := func(branch string, c channel.Commit) channel.Channel {
		l := low.Channel("low", lowIntro)
		l.Branch, l.Commit = branch, c
		return l
	}
	depending := func(name string, on ...channel.Channel) channel.Channel {
		r, intro := newRepo(t, map[string]string{".guix-channel": channeltest.Metadata("", on...)})
		return r.Channel(name, intro)
	}
	base := guix.Channel("guix", guixIntro)
	toFirst, toSecond := depending("a", at("", lowIntro.Commit)), depending("b", at("", second))
	toHead, deep := depending("c", at("master", "")), depending("d", depending("e", at("devel", "")))
	for name, list := range map[string]channel.List{
		"dependency":         {toHead, base},
		"transitive":         {deep, base},
		"pin replaces head":  {toHead, toFirst, base, toSecond},
		"own pin stays":      {at("", second), toFirst, base},
		"own head gives way": {at("master", ""), base, toSecond, toFirst},
		"two heads":          {at("devel", ""), toHead, base},
		"tag":                {at("", "v1"), base},
		"abbreviated":        {at("", devel[:10]), base},
		"reference":          {at("refs/heads/devel", ""), base},
	} {
		t.Run(name, func(t *testing.T) {
			ours := instances(resolve(t, newResolver(t), list))
			if diff := cmp.Diff(guixMerges(t, list)[0], ours); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestGuixMergesRandomTheSame does so for random lists of channels that depend on each other
// at random, in circles too.
func TestGuixMergesRandomTheSame(t *testing.T) {
	guixtest.Require(t)
	r := rand.New(rand.NewPCG(3, 3))
	n := newRandomNetwork(t, r)
	var lists []channel.List
	for range 30 {
		lists = append(lists, n.list(r))
	}
	resolver := newResolver(t)
	replaced := 0
	for i, guix := range guixMerges(t, lists...) {
		lock := resolve(t, resolver, lists[i])
		if diff := cmp.Diff(guix, instances(lock)); diff != "" {
			var b bytes.Buffer
			lists[i].WriteTo(&b)
			t.Errorf("%s: %s", &b, diff)
		}
		if len(lock.Channels) > len(lists[i]) || lock.Channels[len(lock.Channels)-1].DeclaredBy != "" {
			replaced++
		}
	}
	if replaced < 10 {
		t.Errorf("only %d lists have dependencies that take part", replaced)
	}
}

// A randomNetwork is repositories each of whose commits depends on some of the others.
type randomNetwork struct {
	names   []string
	repos   map[string]*channeltest.Repo
	intros  map[string]*channel.Introduction
	commits map[string][]channel.Commit
}

func newRandomNetwork(t *testing.T, r *rand.Rand) *randomNetwork {
	t.Helper()
	n := &randomNetwork{names: []string{"a", "b", "c", "d", "e"}, repos: map[string]*channeltest.Repo{},
		intros: map[string]*channel.Introduction{}, commits: map[string][]channel.Commit{}}
	for _, name := range append(n.names, "guix") {
		repo, intro := newRepo(t, map[string]string{"build-aux/build-self.scm": ";; " + name})
		n.repos[name], n.intros[name], n.commits[name] = repo, intro, []channel.Commit{intro.Commit}
		if err := repo.SetBranch("stable", intro.Commit); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		for _, name := range n.names {
			var on []channel.Channel
			for _, i := range r.Perm(len(n.names))[:r.IntN(3)] {
				on = append(on, n.declare(r, n.names[i]))
			}
			c := commit(t, n.repos[name], "master", map[string]string{".guix-channel": channeltest.Metadata("", on...)})
			n.commits[name] = append(n.commits[name], c)
		}
	}
	return n
}

// declare asks for a channel in one of the ways there are.
func (n *randomNetwork) declare(r *rand.Rand, name string) channel.Channel {
	c := n.repos[name].Channel(name, n.intros[name])
	switch r.IntN(4) {
	case 0:
		c.Branch = "stable"
	case 1, 2:
		c.Commit = n.commits[name][r.IntN(len(n.commits[name]))]
	}
	return c
}

// list returns some of the channels, one maybe twice, and guix.
func (n *randomNetwork) list(r *rand.Rand) channel.List {
	list := channel.List{n.declare(r, "guix")}
	for range 1 + r.IntN(3) {
		list = append(list, n.declare(r, n.names[r.IntN(len(n.names))]))
	}
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// instances are the names and commits of a lock.
func instances(lock *channel.Lock) (all [][2]string) {
	for _, c := range lock.Channels {
		all = append(all, [2]string{c.Name, string(c.Commit)})
	}
	return all
}

// guixMerges returns the names and commits that Guix comes to, for each list.
func guixMerges(t *testing.T, lists ...channel.List) (all [][][2]string) {
	t.Helper()
	var texts []string
	for _, list := range lists {
		var b bytes.Buffer
		if _, err := list.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, b.String())
	}
	for _, v := range askGuix(t, latestInstances, texts) {
		var one [][2]string
		items, _ := sexp.Items(v)
		for _, item := range items {
			fields, _ := sexp.Items(item)
			name, _ := sexp.Text(fields[0])
			id, _ := sexp.Text(fields[1])
			one = append(one, [2]string{name, id})
		}
		all = append(all, one)
	}
	return all
}
