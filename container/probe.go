package container

import (
	"context"
	"encoding/json"
	"fmt"
)

// A Probe says whether a running container is healthy, and if not, why.
//
// Check looks once and returns within ctx. A probe that compares what it sees
// with what it saw before keeps that in memory, which is its own: what the check before it
// returned, whether it passed or not, and nil until all probes of a generation have passed together.
type Probe interface {
	fmt.Stringer
	Check(ctx context.Context, in *Instance, memory any) (any, error)
}

// Probes are tried one after another; all must pass. The kinds of this package are
// kept with a generation, so that going back to it probes what it was probed
// for. Others, which a program brings itself, are not.
type Probes []Probe

// kinds names the probes that can be written down.
var kinds = map[string]func(json.RawMessage) (Probe, error){
	"process":      decodeProbe[Alive],
	"all-services": decodeProbe[AllServices],
	"services":     decodeProbe[Services],
	"http":         decodeProbe[HTTP],
	"tcp":          decodeProbe[TCP],
	"unix":         decodeProbe[Unix],
	"command":      decodeProbe[Command],
	"tls":          decodeProbe[TLS],
	"dns":          decodeProbe[DNS],
}

func decodeProbe[P Probe](text json.RawMessage) (Probe, error) {
	var p P
	err := json.Unmarshal(text, &p)
	return p, err
}

// kindOf returns the name a probe is written down by; empty if it cannot be.
func kindOf(p Probe) string {
	switch p.(type) {
	case Alive:
		return "process"
	case AllServices:
		return "all-services"
	case Services:
		return "services"
	case HTTP:
		return "http"
	case TCP:
		return "tcp"
	case Unix:
		return "unix"
	case Command:
		return "command"
	case TLS:
		return "tls"
	case DNS:
		return "dns"
	}
	return ""
}

type namedProbe struct {
	Kind  string          `json:"kind"`
	Probe json.RawMessage `json:"probe"`
}

// MarshalJSON writes each probe as {"kind": …, "probe": …}, leaving out those
// that are of no kind of this package. If that leaves none, it writes [Alive]:
// no probes at all would mean more.
func (p Probes) MarshalJSON() ([]byte, error) {
	named := []namedProbe{}
	for _, probe := range p {
		kind := kindOf(probe)
		if kind == "" {
			continue
		}
		text, err := json.Marshal(probe)
		if err != nil {
			return nil, err
		}
		named = append(named, namedProbe{kind, text})
	}
	if len(named) == 0 && len(p) > 0 {
		return Probes{Alive{}}.MarshalJSON()
	}
	return json.Marshal(named)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *Probes) UnmarshalJSON(text []byte) error {
	var named []namedProbe
	if err := json.Unmarshal(text, &named); err != nil {
		return err
	}
	*p = nil
	for _, n := range named {
		decode, ok := kinds[n.Kind]
		if !ok {
			return fmt.Errorf("probe of unknown kind %q", n.Kind)
		}
		probe, err := decode(n.Probe)
		if err != nil {
			return fmt.Errorf("probe of kind %q: %w", n.Kind, err)
		}
		*p = append(*p, probe)
	}
	return nil
}
