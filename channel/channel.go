package channel

import (
	"encoding/json"
	"strings"
)

// A Channel is a repository that provides modules for Guix.
// Name is its identity: of two channels with one name, one is used.
type Channel struct {
	Name   string `json:"name"`
	URL    string `json:"url"`
	Branch string `json:"branch"` // empty means "master"; "refs/…" is taken as it is
	// Commit pins the channel. When empty, the head of Branch is meant.
	Commit Commit `json:"commit,omitempty"`
	// Introduction says where authentication starts. Without one the
	// channel is used unauthenticated, except the one called guix.
	Introduction *Introduction `json:"introduction,omitempty"`
}

// An Introduction is the first commit to be believed, and the key that signed it.
type Introduction struct {
	Commit Commit      `json:"commit"`
	Signer Fingerprint `json:"signer"`
}

// A List is the content of a channels.scm file.
// Its JSON form is that of "guix describe -f json".
type List []Channel

const (
	defaultBranch = "master"
	guixName      = "guix"
)

// DefaultGuix is Guix's %default-guix-channel.
func DefaultGuix() Channel {
	return Channel{
		Name:   guixName,
		URL:    "https://git.guix.gnu.org/guix.git",
		Branch: defaultBranch,
		Introduction: &Introduction{
			Commit: "9edb3f66fd807b096b48283debdcddccfea34bad",
			Signer: Fingerprint{
				0xbb, 0xb0, 0x2d, 0xdf, 0x2c, 0xea, 0xf6, 0xa8, 0x0d, 0x1d,
				0xe6, 0x43, 0xa2, 0xa0, 0x6d, 0xf2, 0xa3, 0x3a, 0x54, 0xfa,
			},
		},
	}
}

// branch returns the branch that is meant, never empty.
// Guix takes "origin/x" for "x".
func (c Channel) branch() string {
	if c.Branch == "" {
		return defaultBranch
	}
	return strings.TrimPrefix(c.Branch, "origin/")
}

// withDefaults fills in what Guix fills in silently: the branch, and the
// introduction of the official guix channel.
func (c Channel) withDefaults() Channel {
	if c.Branch == "" {
		c.Branch = defaultBranch
	}
	if official := DefaultGuix(); c.Name == guixName && c.Introduction == nil && c.URL == official.URL {
		c.Introduction = official.Introduction
	}
	return c
}

// Named returns the first channel of that name.
func (l List) Named(name string) (Channel, bool) {
	for _, c := range l {
		if c.Name == name {
			return c, true
		}
	}
	return Channel{}, false
}

// Pinned reports whether every channel names a complete commit.
func (l List) Pinned() bool {
	for _, c := range l {
		if !c.Commit.Complete() {
			return false
		}
	}
	return true
}

// UnmarshalJSON reads what "guix describe -f json" prints.
// A missing branch means "master".
func (c *Channel) UnmarshalJSON(text []byte) error {
	type plain Channel
	if err := json.Unmarshal(text, (*plain)(c)); err != nil {
		return err
	}
	*c = c.withDefaults()
	return nil
}
