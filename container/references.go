package container

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// reference is how a probe speaks of a setting: ${NAME}. Nothing else is, $NAME neither; what is mistaken
// looks as if it were one.
var (
	reference = regexp.MustCompile(`\$\{(\w+)\}`)
	mistaken  = regexp.MustCompile(`\$([A-Za-z_]\w*|\{[^}]*\}?)`)
)

// mistakenIn returns what somebody may have meant for a reference and would be taken as it is; empty for nothing.
func mistakenIn(text string) string {
	return mistaken.FindString(reference.ReplaceAllString(text, ""))
}

// expand replaces ${NAME} in what is asked by the setting NAME: it is another one on other ports. Without such a
// setting ${ADDRESS} is that of the container's own network.
func (p Probes) expand(e Environment) Probes {
	return p.mapped(func(text string) string {
		return reference.ReplaceAllStringFunc(text, func(ref string) string {
			if value, ok := e.refersTo(ref); ok {
				return value
			}
			return ref
		})
	})
}

// mapped returns the probes with f applied to where they look, if that may refer to settings.
func (p Probes) mapped(f func(string) string) Probes {
	all := slices.Clone(p)
	for i, probe := range all {
		switch q := probe.(type) {
		case HTTP:
			q.URL = f(q.URL)
			all[i] = q
		case TCP:
			q.Address = f(q.Address)
			all[i] = q
		case TLS:
			q.Address = f(q.Address)
			all[i] = q
		case DNS:
			q.Name = f(q.Name)
			all[i] = q
		}
	}
	return all
}

// refersTo returns what a reference stands for.
func (e Environment) refersTo(ref string) (string, bool) {
	name := reference.FindStringSubmatch(ref)[1]
	value, ok := e.Settings[name]
	if !ok && name == "ADDRESS" && e.Network.isPrivate() {
		return e.Network.Address.String(), true
	}
	return value, ok
}

// checkReferences returns why a probe could never pass, whatever runs.
func (g *Generation) checkReferences(p Probe) error {
	var errs []error
	Probes{p}.mapped(func(text string) string {
		for _, ref := range reference.FindAllString(text, -1) {
			if _, ok := g.Environment.refersTo(ref); !ok {
				errs = append(errs, fmt.Errorf("probe %v: there is no setting for %s: there are %s", p, ref,
					strings.Join(slices.Sorted(maps.Keys(g.Environment.Settings)), ", ")))
			}
		}
		return text
	})
	if h, ok := p.(HTTP); ok && h.VersionOf != "" {
		if _, err := h.commit(g); err != nil {
			errs = append(errs, fmt.Errorf("probe %v: %w", p, err))
		}
	}
	return errors.Join(errs...)
}
