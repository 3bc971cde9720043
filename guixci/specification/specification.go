package specification

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Specification says what to watch and evaluate, and when it counts as green.
// Name and Channels are required. Where the zero value of a field is not what a
// file without that field means, the comment says so.
type Specification struct {
	// Name tells it from others in the record: letters, digits, "-", "_" and ".".
	Name string
	// Build says what are jobs; a file that does not say asks for [inferior.ModeAll].
	Build Build
	// Channels is the list a user would write: it need not be pinned, nor name
	// what the channels depend on. One must be called guix. A file that does not
	// say means [channel.DefaultGuix] alone.
	Channels channel.List
	// Outputs are files of succeeded jobs to offer for downloading.
	Outputs []BuildOutput
	// Notifications say whom to tell of jobs that break or are fixed.
	Notifications []Notification
	// Period is the time between two looks at the channels, in whole seconds; 0 leaves it
	// to the program.
	Period time.Duration
	// Priority among specifications, 0 first and 9 last, which is what a file
	// that does not say means.
	Priority int
	// Systems to build for; none means the one of the machine.
	Systems []string
	// Inactive specifications keep their history but are not run.
	Inactive bool
	// Properties is a datum in Scheme that belongs to other programs; empty for none.
	Properties string

	// Green says which jobs must succeed for a lock to be green; the zero
	// value means all.
	Green record.Policy
	// Timeout and MaxSilent bound every build, whatever its package says, in whole
	// seconds; 0 leaves it to the package.
	Timeout, MaxSilent time.Duration
	// Sessions is how many inferiors evaluate side by side; 0 means as many as make
	// sense on the machine that does it. SessionMemory, in bytes, is when one is replaced; 0 means
	// the default of [inferior.EvaluateOptions].
	Sessions      int
	SessionMemory int64
}

// A Build is what field build asks for, a mode of Cuirass: one without arguments, or channels,
// packages, manifests or custom with some. The zero Build asks for the packages of all channels
// but guix, which a file spells '(channels): in Cuirass that would be none.
type Build struct {
	Mode string
	// Arguments are names of channels, specifications of packages, file names, or
	// names of modules such as "(my jobs)".
	Arguments []string
}

// Channels is the Build of the packages of channels; without names those of all but guix.
func Channels(names ...string) Build {
	if len(names) == 0 {
		return Build{}
	}
	return Build{Mode: "channels", Arguments: names}
}

// ParseBuild reads the value of field build, such as "all" or "(channels my-channel)".
func ParseBuild(text string) (Build, error) {
	v, err := sexp.Parse(text)
	if err != nil {
		return Build{}, fmt.Errorf("read build %q: %v", text, err)
	}
	b, err := buildOf(v)
	if err != nil {
		return Build{}, fmt.Errorf("%w; the packages of a channel are '(channels NAME)'", err)
	}
	return b, nil
}

// buildOf is the Build that a datum means.
func buildOf(v sexp.Value) (Build, error) {
	if err := new(inferior.EvaluateOptions).AddBuild(v); err != nil {
		return Build{}, err
	}
	items, ok := sexp.Items(v)
	if !ok {
		mode, _ := sexp.Text(v)
		return Build{Mode: mode}, nil
	}
	mode, _ := sexp.Text(items[0])
	b := Build{Mode: mode}
	for _, item := range items[1:] {
		name, isText := sexp.Text(item)
		if mode == "custom" {
			name = item.String()
		} else if !isText || name == "" {
			return Build{}, fmt.Errorf("read build mode: %s is not a name", item)
		}
		b.Arguments = append(b.Arguments, name)
	}
	if mode == "channels" {
		return Channels(b.Arguments...), nil
	}
	if len(b.Arguments) == 0 {
		return Build{}, fmt.Errorf("read build mode: %s names nothing to build", v)
	}
	return b, nil
}

// Sexp is the datum that field build has for b.
func (b Build) Sexp() (sexp.Value, error) {
	l := sexp.L(sexp.Symbol(b.Mode))
	switch b.Mode {
	case "":
		return sexp.L(sexp.Symbol("channels")), nil
	case "channels":
		for _, a := range b.Arguments {
			l.Items = append(l.Items, sexp.Symbol(a))
		}
	case "packages", "manifests":
		l.Items = append(l.Items, sexp.Strings(b.Arguments...).Items...)
	case "custom":
		for _, a := range b.Arguments {
			module, err := sexp.Parse(a)
			if items, ok := sexp.Items(module); err != nil || !ok || len(items) == 0 {
				return nil, fmt.Errorf("%q is not the name of a module, such as (my jobs)", a)
			}
			l.Items = append(l.Items, module)
		}
	default:
		return sexp.Symbol(b.Mode), nil
	}
	return l, nil
}

// String returns b as a file has it, without the quote: "(channels my-channel)".
func (b Build) String() string {
	v, err := b.Sexp()
	if err != nil {
		return fmt.Sprintf("(%s …)", b.Mode)
	}
	return v.String()
}

// A BuildOutput is a file to keep of each job whose name matches.
type BuildOutput struct {
	Job    string `json:"job"` // a POSIX regular expression
	Type   string `json:"type"`
	Output string `json:"output"` // of the derivation; a file that does not say means "out"
	Path   string `json:"path"`   // below the output; empty for the whole
}

// A Notification is one way to tell people: type "email" with addresses and a mailutils URL, or
// "mastodon", which has its credentials elsewhere.
type Notification struct {
	Type   string `json:"type"`
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	Server string `json:"server,omitempty"`
}

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// An Error says what its author has to change in a specification, and where.
type Error struct {
	File          string   // empty for what a program made
	Pos           sexp.Pos // likewise zero
	Specification string   // its name
	Field         string   // as Cuirass calls it; empty if it is none in particular
	Err           error    // what is wrong; may be [channel.ErrNoGuix], wrapped
}

func (e *Error) Error() string {
	text := fmt.Sprintf("specification %q: %v", e.Specification, e.Err)
	if e.File != "" {
		text = fmt.Sprintf("%s:%v: %s", e.File, e.Pos, text)
	}
	return text
}

// Unwrap returns what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// Wrong returns an *[Error] about a field of s.
func (s Specification) Wrong(field, format string, args ...any) error {
	return &Error{Specification: s.Name, Field: field, Err: fmt.Errorf(format, args...)}
}

// Check reports what is wrong with a specification, before anything is fetched.
// The error is an *[Error].
func (s Specification) Check() error {
	if !nameRule.MatchString(s.Name) {
		return s.Wrong("name", "its name must be letters, digits, dots, dashes and underscores, and begin with a letter or digit")
	}
	if len(s.Channels) == 0 {
		return s.Wrong("channels", "it has no channels")
	}
	if _, ok := s.Channels.Named("guix"); !ok {
		return s.Wrong("channels", "%w: add a channel of that name, which provides Guix itself", channel.ErrNoGuix)
	}
	if s.Priority < 0 || s.Priority > 9 {
		return s.Wrong("priority", "its priority is %d, and must be from 0 to 9", s.Priority)
	}
	if err := s.Build.check(); err != nil {
		return s.Wrong("build", "%v", err)
	}
	if err := s.checkTexts(); err != nil {
		return err
	}
	return s.checkNumbers()
}

func (b Build) check() error {
	v, err := b.Sexp()
	if err != nil {
		return err
	}
	same, err := buildOf(v)
	if err == nil && len(same.Arguments) != len(b.Arguments) {
		err = fmt.Errorf("build mode %q takes no arguments", b.Mode)
	}
	return err
}

func (s Specification) checkTexts() error {
	if slices.Contains(s.Systems, "") {
		return s.Wrong("systems", "a system has an empty name")
	}
	if slices.Contains(s.Green.Jobs, "") {
		return s.Wrong("green", "a job has an empty name")
	}
	for _, n := range s.Notifications {
		if n.Type != "email" && n != (Notification{Type: "mastodon"}) {
			return s.Wrong("notifications", "a notification is %+v, and must be an email, or mastodon and nothing else", n)
		}
	}
	if _, err := sexp.Parse(s.Properties); s.Properties != "" && err != nil {
		return s.Wrong("properties", "its properties are not Scheme: %v", err)
	}
	return nil
}

func (s Specification) checkNumbers() error {
	for field, d := range map[string]time.Duration{"period": s.Period, "timeout": s.Timeout, "max-silent-time": s.MaxSilent} {
		if d < 0 || d%time.Second != 0 {
			return s.Wrong(field, "its %s is %v, and must be whole seconds", field, d)
		}
	}
	if s.Sessions < 0 || s.SessionMemory < 0 {
		return s.Wrong("sessions", "its sessions are %d of %d bytes, and neither may be negative", s.Sessions, s.SessionMemory)
	}
	return nil
}
