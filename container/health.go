package container

import (
	"fmt"
	"slices"
	"strings"
)

// A ServiceError is a service that is not as it should be.
type ServiceError struct {
	Service Service
	Problem string
	// Messages are the last things the service printed, as far as shepherd
	// still has them, else what shepherd itself said of its last start.
	Messages []string
}

func (e *ServiceError) Error() string {
	text := fmt.Sprintf("service %s %s", e.Service.Name(), e.Problem)
	if len(e.Messages) == 0 {
		return text
	}
	return text + "; its last messages:\n  " + strings.Join(e.Messages, "\n  ")
}

// ExitCode returns the status a program should end with: something is red.
func (e *ServiceError) ExitCode() int { return red }

// trouble is how often things had gone wrong with a service.
type trouble struct{ failures, respawns int }

// find returns the service that has the name.
func find(services []Service, name string) (Service, bool) {
	i := slices.IndexFunc(services, func(s Service) bool { return s.provides(name) })
	if i < 0 {
		return Service{}, false
	}
	return services[i], true
}

// expected returns the services that ought to run: all but those switched off
// by hand, those that come and go, and the exceptions. A service that shepherd
// itself switched off, since it kept dying, has a history and counts.
func expected(services []Service, except []string) []Service {
	return slices.DeleteFunc(slices.Clone(services), func(s Service) bool {
		return s.Transient || !s.Enabled && len(s.Changes) == 0 || slices.ContainsFunc(except, s.provides)
	})
}

// judgeServices returns a *[ServiceError] for the first of wanted that is not well, and
// what it is to be given as memory next time: the troubles at the first success.
func judgeServices(all, wanted []Service, memory any) (any, error) {
	before, known := memory.(map[string]trouble)
	for _, s := range wanted {
		problem := s.problem(all)
		if b := before[s.Name()]; problem == "" && known {
			problem = s.worse(b)
		}
		if problem != "" {
			return memory, &ServiceError{Service: s, Problem: problem, Messages: lastWords(all, s)}
		}
	}
	if !known {
		return troubles(wanted), nil
	}
	return memory, nil
}

// unwell returns the services that are not as they should be now, of those that the probes ask for; if they ask
// for none, all count.
func (p Probes) unwell(all []Service) []*ServiceError {
	var wanted []Service
	asked := false
	for _, probe := range p {
		switch q := probe.(type) {
		case AllServices:
			asked, wanted = true, append(wanted, expected(all, q.Except)...)
		case Services:
			asked = true
			for _, name := range q.Names {
				s, ok := find(all, name)
				if !ok {
					s.Provides = []string{name}
				}
				wanted = append(wanted, s)
			}
		}
	}
	if !asked {
		wanted = expected(all, nil)
	}
	var found []*ServiceError
	seen := make(map[string]bool)
	for _, s := range wanted {
		problem := s.problem(all)
		if s.Status == "" {
			problem = "is not known to shepherd"
		}
		if problem != "" && !seen[s.Name()] {
			found = append(found, &ServiceError{Service: s, Problem: problem, Messages: lastWords(all, s)})
		}
		seen[s.Name()] = true
	}
	return found
}

func troubles(services []Service) map[string]trouble {
	now := make(map[string]trouble)
	for _, s := range services {
		now[s.Name()] = trouble{len(s.StartupFailures), len(s.Respawns)}
	}
	return now
}

// problem says in a few words what is wrong with s now; empty for nothing.
func (s Service) problem(all []Service) string {
	if s.OneShot {
		return s.oneShotProblem(all)
	}
	switch {
	case s.Status == "running":
		return ""
	case !s.Enabled && len(s.Respawns) > 0:
		return fmt.Sprintf("was given up after %s", count(len(s.Respawns), "respawn"))
	case len(s.StartupFailures) > 0:
		return fmt.Sprintf("is %s after %s", s.Status, count(len(s.StartupFailures), "failure to start"))
	case s.hasRun():
		return fmt.Sprintf("is %s though it had come up, with %s", s.Status, count(len(s.Respawns), "respawn"))
	}
	return s.notYet(all)
}

// hasRun reports whether s was running at some time.
func (s Service) hasRun() bool {
	return slices.ContainsFunc(s.Changes, func(c Change) bool { return c.Status == "running" })
}

// oneShotProblem: a one-shot service is well when it is stopped after having
// been started without failure.
func (s Service) oneShotProblem(all []Service) string {
	switch {
	case len(s.StartupFailures) > 0:
		return "failed"
	case s.Status == "stopped" && len(s.Changes) > 0:
		return ""
	}
	return s.notYet(all)
}

// notYet describes a service that has not come up, with the reason that lies in what it
// requires: shepherd never tries one that needs a name nobody provides, and says so nowhere.
func (s Service) notYet(all []Service) string {
	for _, name := range s.Requires {
		if _, ok := find(all, name); !ok {
			return fmt.Sprintf("is %s: it requires %s, which no service provides", s.Status, name)
		}
	}
	for _, name := range s.Requires {
		if r, _ := find(all, name); r.problem(nil) != "" && !r.OneShot {
			return fmt.Sprintf("is %s: it requires %s, which is %s", s.Status, name, r.Status)
		}
	}
	return "is " + s.Status
}

// worse says what went wrong with s since before.
func (s Service) worse(before trouble) string {
	if n := len(s.StartupFailures) - before.failures; n > 0 {
		return fmt.Sprintf("had %s since it was well", count(n, "failure to start"))
	}
	if n := len(s.Respawns) - before.respawns; n > 0 {
		return fmt.Sprintf("had %s since it was well", count(n, "respawn"))
	}
	return ""
}

// count counts things in English.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if rest, ok := strings.CutPrefix(thing, "failure"); ok {
		return fmt.Sprintf("%d failures%s", n, rest)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// lastWords returns what is known of why s is not well. Shepherd forgets the
// messages of a service together with its logger, which ends with its
// process; what shepherd said itself is among those of the service root.
func lastWords(all []Service, s Service) []string {
	var words []string
	for _, m := range s.Messages {
		words = append(words, m.Text)
	}
	if root, ok := find(all, "root"); ok && len(words) == 0 {
		words = wordsAbout(root.Messages, s.Name())
	}
	return words
}

// wordsAbout returns shepherd's messages from the last start of a service until
// its end, or else those that mention it.
func wordsAbout(messages []Message, name string) []string {
	var words []string
	for _, m := range messages {
		if m.Text == "Starting service "+name+"..." {
			words = nil
		}
		if !strings.HasPrefix(m.Text, "Starting service ") && !strings.HasPrefix(m.Text, "Service ") ||
			slices.Contains(strings.Fields(strings.TrimRight(m.Text, ".")), name) {
			words = append(words, m.Text)
		}
	}
	return words
}
