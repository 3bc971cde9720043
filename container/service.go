package container

import (
	"fmt"
	"slices"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A Service is what shepherd says about one of its services.
// Lists of times and messages are oldest first; shepherd keeps a limited number.
type Service struct {
	Provides        []string // names; the first is the canonical one
	Requires        []string
	Status          string // stopped, starting, running or stopping
	Enabled         bool   // false after "herd disable", and after respawning too fast
	OneShot         bool   // runs once: stopped is its state of success
	Transient       bool   // goes away when it stops
	PID             int    // of its process, in the container's numbers; 0 for none
	Changes         []Change
	StartupFailures []time.Time
	Respawns        []time.Time
	Exits           []Exit    // of its processes
	Messages        []Message // what it printed lately, empty once it has stopped
	LogFiles        []string  // inside the container
}

// A Change is the moment at which a service came into a status.
type Change struct {
	Status string
	Time   time.Time
}

// An Exit is the end of a service's process.
type Exit struct {
	Status int // as wait(2) has it
	Time   time.Time
}

// A Message is a line that a service printed.
type Message struct {
	Time time.Time
	Text string
}

// Name returns the canonical name.
func (s Service) Name() string { return s.Provides[0] }

// provides reports whether name is one of the service's names.
func (s Service) provides(name string) bool { return slices.Contains(s.Provides, name) }

// parseService reads (service (version 0) (KEY VALUE) …) by key:
// shepherd's versions add and drop keys.
func parseService(v sexp.Value) (Service, error) {
	if _, ok := sexp.Tagged(v, "service"); !ok {
		return Service{}, fmt.Errorf("not a service: %.80s", v)
	}
	s := Service{
		Provides:        fieldTexts(v, "provides"),
		Requires:        fieldTexts(v, "requires"),
		Enabled:         fieldTrue(v, "enabled?"),
		OneShot:         fieldTrue(v, "one-shot?"),
		Transient:       fieldTrue(v, "transient?"),
		PID:             processID(v),
		Changes:         changes(v),
		StartupFailures: times(v, "startup-failures"),
		Respawns:        times(v, "last-respawns"),
		Exits:           exits(v),
		Messages:        messages(v),
		LogFiles:        fieldTexts(v, "log-files"),
	}
	if len(s.Provides) == 0 {
		return Service{}, fmt.Errorf("service without a name: %.80s", v)
	}
	status, _ := sexp.Field(v, "status")
	s.Status, _ = sexp.Text(status)
	if s.Status == "" {
		return Service{}, fmt.Errorf("service %s without a status", s.Name())
	}
	return s, nil
}

func fieldItems(v sexp.Value, key sexp.Symbol) []sexp.Value {
	field, _ := sexp.Field(v, key)
	items, _ := sexp.Items(field)
	return items
}

func fieldTexts(v sexp.Value, key sexp.Symbol) []string {
	var texts []string
	for _, item := range fieldItems(v, key) {
		if text, ok := sexp.Text(item); ok {
			texts = append(texts, text)
		}
	}
	return texts
}

func fieldTrue(v sexp.Value, key sexp.Symbol) bool {
	field, ok := sexp.Field(v, key)
	return ok && sexp.True(field)
}

// processID reads the running value (process (version 0) (id N) …);
// services that are not a process have another one, a plain pid included.
func processID(v sexp.Value) int {
	running, _ := sexp.Field(v, "running")
	if pid, ok := running.(sexp.Int); ok {
		return int(pid)
	}
	id, _ := sexp.Field(running, "id")
	pid, _ := id.(sexp.Int)
	return int(pid)
}

// seconds reads a time, which is seconds since the Epoch.
func seconds(v sexp.Value) time.Time {
	n, _ := v.(sexp.Int)
	return time.Unix(int64(n), 0)
}

func times(v sexp.Value, key sexp.Symbol) []time.Time {
	var all []time.Time
	for _, item := range fieldItems(v, key) {
		all = append(all, seconds(item))
	}
	slices.Reverse(all)
	return all
}

// pairs returns the heads and tails of a list of pairs, which shepherd keeps newest first.
func pairs(v sexp.Value, key sexp.Symbol) [][2]sexp.Value {
	var all [][2]sexp.Value
	for _, item := range fieldItems(v, key) {
		if l, ok := item.(*sexp.List); ok && len(l.Items) == 1 && l.Tail != nil {
			all = append(all, [2]sexp.Value{l.Items[0], l.Tail})
		}
	}
	slices.Reverse(all)
	return all
}

func changes(v sexp.Value) []Change {
	var all []Change
	for _, p := range pairs(v, "status-changes") {
		status, _ := sexp.Text(p[0])
		all = append(all, Change{Status: status, Time: seconds(p[1])})
	}
	return all
}

func exits(v sexp.Value) []Exit {
	var all []Exit
	for _, p := range pairs(v, "exit-statuses") {
		status, _ := p[0].(sexp.Int)
		all = append(all, Exit{Status: int(status), Time: seconds(p[1])})
	}
	return all
}

func messages(v sexp.Value) []Message {
	var all []Message
	for _, p := range pairs(v, "recent-messages") {
		text, _ := sexp.Text(p[1])
		all = append(all, Message{Time: seconds(p[0]), Text: text})
	}
	return all
}
