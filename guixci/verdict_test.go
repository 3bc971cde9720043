package guixci

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/inferior"
)

func TestRedVerdict(t *testing.T) {
	lock := locked("guix", "mine")
	commit := lock.Channels[1].Commit
	blamed := []ChannelVerdict{
		{Name: "guix", Commit: lock.Channels[0].Commit, Result: "unknown"}, {Name: "mine", Commit: commit, Result: "red"},
	}
	nobody := []ChannelVerdict{
		{Name: "guix", Commit: lock.Channels[0].Commit, Result: "unknown"}, {Name: "mine", Commit: commit, Result: "unknown"},
	}
	pull := &inferior.PullError{
		Stage: inferior.StageBuild, Channel: "mine", Module: "(my packages)",
		Failure: inferior.Failure{Cause: inferior.CauseUnboundVariable, Message: "Unbound variable: foo",
			Location: inferior.Location{File: "my/packages.scm", Line: 3, Column: 2}, Hint: "define it", Log: "the end"},
	}
	tests := []struct {
		name     string
		err      error
		want     *Verdict
		sentence string
	}{
		{"a module", fmt.Errorf("wrapped: %w", pull),
			&Verdict{Stage: "build", Cause: "unbound-variable", Channel: "mine", Module: "(my packages)",
				Exception: "Unbound variable: foo", File: "my/packages.scm", Line: 3, Column: 2,
				Hint: "define it", Log: "the end", Channels: blamed},
			"guix pull fails at stage build in channel mine, module (my packages), my/packages.scm:3: Unbound variable: foo"},
		{"nobody is to blame", &inferior.PullError{Stage: inferior.StageProfile, Failure: inferior.Failure{Message: "two of a name"}},
			&Verdict{Stage: "profile", Exception: "two of a name", Channels: nobody},
			"guix pull fails at stage profile: two of a name"},
		{"a forged commit", fmt.Errorf("wrapped: %w", &channel.AuthError{Channel: "mine", Commit: commit, Rule: channel.UnauthorizedSigner, Detail: "is signed by a stranger"}),
			&Verdict{Stage: "authenticate", Cause: "unauthorized-signer", Channel: "mine", Channels: blamed,
				Exception: "commit " + string(commit) + " is signed by a stranger (unauthorized-signer)",
				Hint:      authHint(channel.UnauthorizedSigner)},
			"guix pull fails at stage authenticate in channel mine: commit " + string(commit) + " is signed by a stranger (unauthorized-signer)"},
		{"a repository", &channel.AuthError{Channel: "mine", Rule: channel.KeyringMissing, Detail: "there is no branch keyring"},
			&Verdict{Stage: "authenticate", Cause: "keyring-missing", Channel: "mine", Channels: blamed,
				Exception: "there is no branch keyring (keyring-missing)", Hint: authHint(channel.KeyringMissing)},
			"guix pull fails at stage authenticate in channel mine: there is no branch keyring (keyring-missing)"},
	}
	for _, test := range tests {
		got := redVerdict(lock, test.err)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
			continue
		}
		if got.String() != test.sentence {
			t.Errorf("%s: says %q, want %q", test.name, got, test.sentence)
		}
	}
}

// What says nothing about the channels is no verdict on them.
func TestNoVerdict(t *testing.T) {
	lock := locked("guix")
	for _, cause := range []inferior.Cause{inferior.CauseNetwork, inferior.CauseNoSpace, inferior.CausePermission, inferior.CauseMachinery} {
		if v := redVerdict(lock, &inferior.PullError{Stage: inferior.StageBuild, Channel: "guix", Failure: inferior.Failure{Cause: cause}}); v != nil {
			t.Errorf("%s: %v", cause, v)
		}
	}
	for _, err := range []error{context.Canceled, errors.New("no such daemon"), &channel.RepositoryError{URL: "u", Err: errors.New("gone")}} {
		if v := redVerdict(lock, err); v != nil {
			t.Errorf("%v: %v", err, v)
		}
	}
}

// Whoever reads a red verdict is told what to do about the rules that people break.
func TestAuthHints(t *testing.T) {
	hinted := map[string]bool{}
	for _, rule := range []channel.Rule{channel.UnauthorizedSigner, channel.Unsigned, channel.MissingKey, channel.NotDescendant, channel.AuthorizationsRemoved} {
		hint := authHint(rule)
		if hint == "" || hinted[hint] || strings.HasSuffix(hint, ".") {
			t.Errorf("%s: hint %q", rule, hint)
		}
		hinted[hint] = true
	}
}
