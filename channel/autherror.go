package channel

import (
	"encoding/json"
	"fmt"
	"time"
)

// A Rule names what an authentication failed at. The names are stable.
type Rule string

// The rules, in about the order in which they are checked.
const (
	NoIntroduction          Rule = "no-introduction"          // the guix channel has none
	IntroductionMissing     Rule = "introduction-missing"     // that commit is not in the repository
	KeyringMissing          Rule = "keyring-missing"          // no branch with keys
	MalformedKeyring        Rule = "malformed-keyring"        // a .key file that cannot be read
	IntroductionSigner      Rule = "introduction-signer"      // signed by another key than introduced
	NotDescendant           Rule = "not-descendant"           // the commit does not come after the introduction
	MalformedCommit         Rule = "malformed-commit"         // an ambiguous or broken commit object
	Unsigned                Rule = "unsigned"                 // no signature
	MalformedSignature      Rule = "malformed-signature"      // not an OpenPGP signature Guix reads
	WeakHash                Rule = "weak-hash"                // MD5, or SHA-1 where it is no longer accepted
	UnsupportedSignature    Rule = "unsupported-signature"    // of text, or by an algorithm Guix does not verify
	MissingKey              Rule = "missing-key"              // the key is not in the keyring
	BadSignature            Rule = "bad-signature"            // the commit is not what was signed
	UnauthorizedSigner      Rule = "unauthorized-signer"      // a parent does not authorize the key
	AuthorizationsRemoved   Rule = "authorizations-removed"   // .guix-authorizations was there and is gone
	MalformedAuthorizations Rule = "malformed-authorizations" // .guix-authorizations cannot be read
	TooLarge                Rule = "too-large"                // an object beyond the limit

	// These are asked of strict authentication only.
	WeakKey          Rule = "weak-key"          // DSA, or RSA of less than 2048 bits
	ExpiredKey       Rule = "expired-key"       // when the commit was made
	RevokedKey       Rule = "revoked-key"       // before, or at any time unless it was just replaced
	UnboundKey       Rule = "unbound-key"       // not its owner's to sign with, or not yet
	ExpiredSignature Rule = "expired-signature" // when the commit was made
	FutureDate       Rule = "future-date"       // signed or committed in the future
	NotOnBranch      Rule = "not-on-branch"     // the branch of the channel does not contain the commit
)

// An AuthError says why a channel is not to be believed.
type AuthError struct {
	Channel string
	Commit  Commit      // that breaks the rule; empty when it is about the repository
	When    time.Time   // that commit was made, by its own account; zero when not known
	Rule    Rule        // that is broken
	Key     Fingerprint // that signed, where known
	// Since says since when it is broken: the time at which the key expired or was
	// revoked, or the date of SinceCommit. Zero when that means nothing.
	Since time.Time
	// SinceCommit is the commit that took the key's authorization away.
	// Empty when the key never had any on this line of history.
	SinceCommit Commit
	Detail      string // a sentence about it
}

// MarshalJSON leaves out what is not known.
func (e *AuthError) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Channel     string    `json:"channel"`
		Commit      Commit    `json:"commit,omitempty"`
		When        time.Time `json:"when,omitzero"`
		Rule        Rule      `json:"rule"`
		Key         string    `json:"key,omitempty"`
		Since       time.Time `json:"since,omitzero"`
		SinceCommit Commit    `json:"sinceCommit,omitempty"`
		Detail      string    `json:"detail"`
	}{e.Channel, e.Commit, e.When, e.Rule, e.Key.orEmpty(), e.Since, e.SinceCommit, e.Detail})
}

func (e *AuthError) Error() string {
	text := fmt.Sprintf("%s (%s)", e.Detail, e.Rule)
	if e.Commit != "" {
		text = fmt.Sprintf("commit %s %s", e.Commit, text)
	}
	if e.Channel != "" {
		text = fmt.Sprintf("authenticate channel %s: %s", e.Channel, text)
	}
	return text
}

func refuse(c objectID, rule Rule, format string, args ...any) *AuthError {
	return &AuthError{Commit: c.commit(), Rule: rule, Detail: fmt.Sprintf(format, args...)}
}
