package guixci

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/inferior"
)

// A Verdict says whether "guix pull" of a lock succeeds, and if not, why not.
type Verdict struct {
	Green bool `json:"green"`
	// Profile is the store item of the Guix that was pulled; empty when red.
	Profile string `json:"profile,omitempty"`
	// Channels has a verdict on each channel of the lock, in its order.
	Channels []ChannelVerdict `json:"channels"`

	// The rest is about a red verdict.

	Stage     string `json:"stage,omitempty"`     // what failed: fetch, authenticate, build, …
	Cause     string `json:"cause,omitempty"`     // the kind of thing, such as unbound-variable; empty if it is no known one
	Channel   string `json:"channel,omitempty"`   // to blame; empty if that is not known
	Module    string `json:"module,omitempty"`    // Scheme module to blame, "(sample packages)"
	Exception string `json:"exception,omitempty"` // as Guile gives it, or the rule that was broken
	File      string `json:"file,omitempty"`      // in the channel
	Line      int    `json:"line,omitempty"`      // counts from 1; 0 if unknown
	Column    int    `json:"column,omitempty"`
	Hint      string `json:"hint,omitempty"` // what to do, where that can be guessed
	Log       string `json:"log,omitempty"`  // the end of what was printed
}

// A ChannelVerdict is how one channel fared.
type ChannelVerdict struct {
	Name   string         `json:"name"`
	Commit channel.Commit `json:"commit"`
	// Result is "green", "red", or "unknown" for a channel of a red lock that
	// is not to blame: it may not have been looked at.
	Result string `json:"result"`
}

// String returns the verdict in a sentence, for people.
func (v *Verdict) String() string {
	if v.Green {
		return "guix pull succeeds"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "guix pull fails at stage %s", v.Stage)
	if v.Channel != "" {
		fmt.Fprintf(&b, " in channel %s", v.Channel)
	}
	if v.Module != "" {
		fmt.Fprintf(&b, ", module %s", v.Module)
	}
	if v.File != "" {
		fmt.Fprintf(&b, ", %s", v.File)
		if v.Line > 0 {
			fmt.Fprintf(&b, ":%d", v.Line)
		}
	}
	fmt.Fprintf(&b, ": %s", v.Exception)
	return b.String()
}

// greenVerdict is that on a lock whose profile could be made.
func greenVerdict(lock *channel.Lock, profile *inferior.Profile) *Verdict {
	return &Verdict{Green: true, Profile: profile.Item, Channels: channelVerdicts(lock, "", "green")}
}

// redVerdict reads a verdict out of why a lock could not be pulled.
// It is nil for errors that say nothing about the channels.
func redVerdict(lock *channel.Lock, err error) *Verdict {
	var auth *channel.AuthError
	if errors.As(err, &auth) {
		return &Verdict{Stage: string(inferior.StageAuthenticate), Cause: string(auth.Rule), Channel: auth.Channel,
			Exception: refusal(auth), Hint: authHint(auth.Rule), Channels: channelVerdicts(lock, auth.Channel, "unknown")}
	}
	var pull *inferior.PullError
	if !errors.As(err, &pull) || pull.Machinery() {
		return nil
	}
	return &Verdict{
		Stage: string(pull.Stage), Channel: pull.Channel, Module: pull.Module,
		Cause: string(pull.Cause), Exception: pull.Message,
		File: pull.Location.File, Line: pull.Location.Line, Column: pull.Location.Column,
		Hint: pull.Hint, Log: pull.Log, Channels: channelVerdicts(lock, pull.Channel, "unknown"),
	}
}

// refusal is what an authentication failed at, without the channel, which the verdict names.
func refusal(e *channel.AuthError) string {
	if e.Commit == "" {
		return fmt.Sprintf("%s (%s)", e.Detail, e.Rule)
	}
	return fmt.Sprintf("commit %s %s (%s)", e.Commit, e.Detail, e.Rule)
}

// authHint is what to do about a broken rule, where that does not go without saying.
func authHint(rule channel.Rule) string {
	switch rule {
	case channel.UnauthorizedSigner:
		return "somebody authorized must sign, or the signer be added to .guix-authorizations by somebody who is"
	case channel.Unsigned, channel.MalformedSignature, channel.WeakHash, channel.UnsupportedSignature, channel.BadSignature:
		return "replace the commit by one with a good signature of somebody authorized"
	case channel.KeyringMissing, channel.MalformedKeyring, channel.MissingKey:
		return "the signer's public key must be on the keyring branch of the channel"
	case channel.NoIntroduction, channel.IntroductionMissing, channel.IntroductionSigner, channel.NotDescendant:
		return "compare the introduction of the channel, its commit and its signer, with what the channel's authors publish"
	case channel.AuthorizationsRemoved, channel.MalformedAuthorizations:
		return "restore .guix-authorizations, with a commit on top of the last good one"
	}
	return ""
}

func channelVerdicts(lock *channel.Lock, guilty, others string) []ChannelVerdict {
	var all []ChannelVerdict
	for _, c := range lock.Channels {
		v := ChannelVerdict{Name: c.Name, Commit: c.Commit, Result: others}
		if c.Name == guilty {
			v.Result = "red"
		}
		all = append(all, v)
	}
	return all
}

// channelsText is the channels.scm of a lock.
func channelsText(lock *channel.Lock) []byte {
	var b bytes.Buffer
	lock.WriteTo(&b) // a buffer takes everything
	return b.Bytes()
}
