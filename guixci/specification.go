package guixci

import (
	"fmt"
	"regexp"
	"strings"

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

// A SpecificationError says what its author has to change in a specification.
type SpecificationError struct {
	Specification string // its name
	Err           error  // what is wrong; may be [channel.ErrNoGuix], wrapped
}

func (e *SpecificationError) Error() string {
	return fmt.Sprintf("specification %q: %v", e.Specification, e.Err)
}

// Unwrap returns what is wrong.
func (e *SpecificationError) Unwrap() error { return e.Err }

func (s Specification) wrong(format string, args ...any) error {
	return &SpecificationError{s.Name, fmt.Errorf(format, args...)}
}

// Check reports what is wrong with a specification, before anything is fetched.
// The error is a *[SpecificationError].
func (s Specification) Check() error {
	if !nameRule.MatchString(s.Name) {
		return s.wrong("its name must be letters, digits, dots, dashes and underscores, and begin with a letter or digit")
	}
	if len(s.Channels) == 0 {
		return s.wrong("it has no channels")
	}
	if _, ok := s.Channels.Named("guix"); !ok {
		return s.wrong("%w: add a channel of that name, which provides Guix itself", channel.ErrNoGuix)
	}
	if s.Priority < 0 || s.Priority > 9 {
		return s.wrong("its priority is %d, and must be from 0 to 9", s.Priority)
	}
	return nil
}

// jobChannels returns the names of the channels of lock whose packages are wanted.
// The error is a *[SpecificationError].
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
			return nil, s.wrong("no channel %q, whose packages are to be built, among those of the lock: %s",
				name, strings.Join(append([]string{"guix"}, all...), ", "))
		}
	}
	return s.Build, nil
}
