package guixci

import (
	"fmt"
	"regexp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/record"
)

// A Specification says what to watch and evaluate, and when it counts as green.
// The word is Cuirass's, whose "specification" records have the same fields.
type Specification struct {
	// Name tells it from others in the record: letters, digits, "-", "_" and ".". Required.
	Name string `json:"name"`
	// Channels is the list a user would write: it need not be pinned, nor name
	// what the channels depend on. One must be called guix.
	Channels channel.List `json:"channels"`
	// Build names the channels whose packages are jobs. None means all channels
	// of the lock but guix itself.
	Build []string `json:"build,omitempty"`
	// Systems to build for; none means the one of the machine.
	Systems []string `json:"systems,omitempty"`
	// Priority among specifications, 0 first and 9 last.
	Priority int `json:"priority,omitempty"`
	// Green says which jobs must succeed for a lock to be green; the zero
	// value means all.
	Green record.Policy `json:"green"`
}

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Check reports what is wrong with a specification, before anything is fetched.
func (s Specification) Check() error {
	if !nameRule.MatchString(s.Name) {
		return fmt.Errorf("specification %q: its name must be letters, digits, dots, dashes and underscores", s.Name)
	}
	if len(s.Channels) == 0 {
		return fmt.Errorf("specification %s: it has no channels", s.Name)
	}
	if _, ok := s.Channels.Named("guix"); !ok {
		return fmt.Errorf("specification %s: %w: add a channel of that name, which provides Guix itself", s.Name, channel.ErrNoGuix)
	}
	return nil
}

// jobChannels returns the names of the channels of lock whose packages are wanted.
func (s Specification) jobChannels(lock *channel.Lock) ([]string, error) {
	var all []string
	known := map[string]bool{}
	for _, c := range lock.Channels {
		known[c.Name] = true
		if c.Name != "guix" {
			all = append(all, c.Name)
		}
	}
	if len(s.Build) == 0 {
		return all, nil
	}
	for _, name := range s.Build {
		if !known[name] {
			return nil, fmt.Errorf("specification %s: no channel %q in the lock, whose packages are to be built", s.Name, name)
		}
	}
	return s.Build, nil
}
