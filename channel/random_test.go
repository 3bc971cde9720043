package channel_test

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

// A plan is a history to be made, as plain data: it can be printed, and made smaller. The
// introduction is by alice, who it authorizes.
type plan struct {
	Steps      []step
	Historical []int // keys
}

// A step is a commit. The last one is the target.
type step struct {
	Parents   []int // steps, counted from 1; 0 is the introduction, none a root
	Signer    int   // index of planKeys; -1 leaves it unsigned
	Authorize []int // keys its .guix-authorizations has; nil leaves the file as it is
	Remove    bool  // the file
	Hash      crypto.Hash
	Odd       oddity
}

// An oddity is something no honest tool does.
type oddity int

const (
	plain oddity = iota
	tampered
	otherIssuer // says that it is from alice
	noIssuer
	textSignature
	version3
	criticalSubpacket
	twiceHeader
	oddities
)

// planKeys sign in plans. The last two are in the keyring and not.
func planKeys() []*channeltest.Key {
	return []*channeltest.Key{alice, bob, rsaKey("rita", 2048), channeltest.NewDSAKey("dora"), mallory, unknown}
}

// newPlan returns a random plan: mostly honest, so that it is not refused at once.
func newPlan(r *rand.Rand) plan {
	p := plan{}
	authorized := [][]int{{0}} // by each step, the introduction first
	for range 1 + r.IntN(7) {
		s := step{Parents: []int{len(p.Steps)}, Hash: crypto.SHA512}
		switch n := r.IntN(10); {
		case n < 2: // a merge
			s.Parents = append(s.Parents, r.IntN(len(p.Steps)+1))
		case n < 4: // a branch
			s.Parents[0] = r.IntN(len(p.Steps) + 1)
		case n == 4 && r.IntN(4) == 0:
			s.Parents = nil
		}
		common := allowedBy(authorized, s.Parents)
		s.Signer = r.IntN(6)
		if len(common) > 0 && r.IntN(8) > 0 {
			s.Signer = common[r.IntN(len(common))]
		}
		after := []int(nil)
		if len(s.Parents) > 0 {
			after = authorized[s.Parents[0]]
		}
		switch r.IntN(6) {
		case 0:
			s.Authorize = r.Perm(6)[:1+r.IntN(4)]
			after = s.Authorize
		case 1:
			if s.Remove = r.IntN(6) == 0; s.Remove {
				after = nil
			}
		}
		s.rare(r)
		authorized = append(authorized, after)
		p.Steps = append(p.Steps, s)
	}
	if r.IntN(5) == 0 {
		p.Historical = r.Perm(6)[:2]
	}
	return p
}

// rare makes a step unusual, once in a while.
func (s *step) rare(r *rand.Rand) {
	if r.IntN(12) == 0 {
		s.Odd = oddity(1 + r.IntN(int(oddities)-1))
	}
	if r.IntN(6) == 0 {
		s.Hash = []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.RIPEMD160, crypto.SHA384}[r.IntN(4)]
	}
	if r.IntN(30) == 0 {
		s.Signer = -1
	}
}

// allowedBy returns the keys that all the steps authorize.
func allowedBy(authorized [][]int, steps []int) (common []int) {
	for i, p := range steps {
		if i == 0 {
			common = slices.Clone(authorized[p])
			continue
		}
		common = slices.DeleteFunc(common, func(k int) bool { return !slices.Contains(authorized[p], k) })
	}
	return common
}

// make makes the history.
func (p plan) make(t testing.TB) *scene {
	s := newScene(t, story{tell: func(s *scene) {
		keys := planKeys()
		s.must(s.repo.Keyring("keyring", keys[2], keys[3]))
		made := []channel.Commit{s.intro.Commit}
		for i, step := range p.Steps {
			c, err := s.repo.CommitTo("", step.commit(i, made))
			s.must(err)
			made = append(made, c)
		}
		s.target = made[len(made)-1]
		s.must(s.repo.SetBranch("master", s.target))
		for _, k := range p.Historical {
			s.historical = append(s.historical, keys[k].Fingerprint())
		}
	}})
	return s
}

func (s step) commit(i int, made []channel.Commit) channeltest.CommitOptions {
	keys := planKeys()
	o := channeltest.CommitOptions{Message: "Pay alice.", Files: map[string]string{"n": fmt.Sprint(i)},
		Signature: channeltest.Signature{Hash: s.Hash}}
	for _, p := range s.Parents {
		if id := made[p]; !slices.Contains(o.Parents, id) {
			o.Parents = append(o.Parents, id)
		}
	}
	if s.Signer >= 0 {
		o.Key = keys[s.Signer]
	}
	if s.Authorize != nil {
		var who []*channeltest.Key
		for _, k := range s.Authorize {
			who = append(who, keys[k])
		}
		o.Files[".guix-authorizations"] = channeltest.Authorizations(who...)
	}
	if s.Remove {
		o.Files[".guix-authorizations"] = channeltest.Deleted
	}
	s.Odd.apply(&o)
	return o
}

func (odd oddity) apply(o *channeltest.CommitOptions) {
	switch odd {
	case tampered:
		o.Forge = func(raw []byte) []byte { return bytes.Replace(raw, []byte("Pay alice"), []byte("Pay marge"), 1) }
	case otherIssuer:
		o.Signature.Issuer = alice
	case noIssuer:
		o.Signature.NoIssuer, o.Signature.NoFingerprint = true, true
	case textSignature:
		o.Signature.Type = 1
	case version3:
		o.Signature.Version3 = true
	case criticalSubpacket:
		o.Signature.Hashed = channeltest.Subpacket(0x80|101, []byte("x"))
	case twiceHeader:
		o.Headers = "X-note a\nX-note b\n"
	}
}

// shrink makes a plan as small as it gets while bad still holds.
func shrink(p plan, bad func(plan) bool) plan {
	for {
		i := slices.IndexFunc(p.smaller(), bad)
		if i < 0 {
			return p
		}
		p = p.smaller()[i]
	}
}

// smaller returns the plans that have one thing less.
func (p plan) smaller() (all []plan) {
	for i := range p.Steps {
		if len(p.Steps) > 1 {
			all = append(all, p.without(i))
		}
	}
	if p.Historical != nil {
		all = append(all, plan{Steps: p.Steps})
	}
	for i, s := range p.Steps {
		for _, simpler := range s.simpler() {
			steps := slices.Clone(p.Steps)
			steps[i] = simpler
			all = append(all, plan{Steps: steps, Historical: p.Historical})
		}
	}
	return all
}

// without removes a step; its children get its first parent.
func (p plan) without(gone int) plan {
	smaller := plan{Historical: p.Historical}
	for i, s := range p.Steps {
		if i == gone {
			continue
		}
		s.Parents = slices.Clone(s.Parents)
		for j, parent := range s.Parents {
			switch {
			case parent == gone+1 && len(p.Steps[gone].Parents) > 0:
				s.Parents[j] = p.Steps[gone].Parents[0]
			case parent == gone+1:
				s.Parents[j] = 0
			case parent > gone+1:
				s.Parents[j]--
			}
		}
		smaller.Steps = append(smaller.Steps, s)
	}
	return smaller
}

func (s step) simpler() (all []step) {
	try := func(differs bool, change func(*step)) {
		if differs {
			c := s
			change(&c)
			all = append(all, c)
		}
	}
	try(len(s.Parents) > 1, func(c *step) { c.Parents = c.Parents[:1] })
	try(s.Odd != plain, func(c *step) { c.Odd = plain })
	try(s.Hash != crypto.SHA512, func(c *step) { c.Hash = crypto.SHA512 })
	try(s.Remove, func(c *step) { c.Remove = false })
	try(s.Authorize != nil, func(c *step) { c.Authorize = nil })
	try(len(s.Authorize) > 1, func(c *step) { c.Authorize = c.Authorize[:1] })
	try(s.Signer != 0, func(c *step) { c.Signer = 0 })
	return all
}

// A disagreement over something in one step shrinks to that step.
func TestShrink(t *testing.T) {
	bad := func(p plan) bool {
		return slices.ContainsFunc(p.Steps, func(s step) bool { return s.Odd == version3 && len(s.Parents) > 1 })
	}
	found := 0
	for seed := uint64(0); found < 3; seed++ {
		p := newPlan(rand.New(rand.NewPCG(seed, 0)))
		if !bad(p) {
			continue
		}
		found++
		got := fmt.Sprintf("%+v", shrink(p, bad))
		if !strings.HasPrefix(got, "{Steps:[{Parents:[0 0] Signer:0 Authorize:[] Remove:false Hash:SHA-512 Odd:5}]") {
			t.Errorf("%+v shrank to %s", p, got)
		}
	}
}

// Random histories reach many of the rules, and acceptance.
func TestPlansAreVaried(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(60) {
		s := newPlan(rand.New(rand.NewPCG(seed, 1))).make(t)
		seen[verdictOf(s.ours(t))]++
	}
	if len(seen) < 5 || seen["accepted"] < 6 {
		t.Errorf("verdicts %v", seen)
	}
}

// ours returns our verdict of a scene, in place.
func (s *scene) ours(t testing.TB) error {
	t.Helper()
	repo, err := channel.OpenLocal(s.repo.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	c := s.repo.Channel("story", s.intro)
	c.Commit = s.target
	a := &channel.Authenticator{Keyring: s.keyring, Historical: s.historical}
	_, err = a.AuthenticateIn(t.Context(), repo, c)
	var refused *channel.AuthError
	if err != nil && !errors.As(err, &refused) {
		t.Fatalf("neither accepted nor refused: %v", err)
	}
	return err
}

func verdictOf(err error) string {
	var refused *channel.AuthError
	if errors.As(err, &refused) {
		return string(refused.Rule)
	}
	return "accepted"
}
