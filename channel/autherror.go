package channel

import "fmt"

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
)

// An AuthError says why a channel is not to be believed.
type AuthError struct {
	Channel string
	Commit  Commit      // that breaks the rule; empty when it is about the repository
	Rule    Rule        // that is broken
	Key     Fingerprint // that signed, where known
	Detail  string      // a sentence about it
}

func (e *AuthError) Error() string {
	if e.Commit == "" {
		return fmt.Sprintf("authenticate channel %s: %s (%s)", e.Channel, e.Detail, e.Rule)
	}
	return fmt.Sprintf("authenticate channel %s: commit %s %s (%s)", e.Channel, e.Commit, e.Detail, e.Rule)
}

func refuse(c objectID, rule Rule, format string, args ...any) *AuthError {
	return &AuthError{Commit: c.commit(), Rule: rule, Detail: fmt.Sprintf(format, args...)}
}
