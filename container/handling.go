package container

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Handling is how a generation is started, stopped, confirmed and kept; its fields are those of a
// [Deployment]. Who handles it later, such as a supervisor, may know no more than the state directory.
type Handling struct {
	ConfirmBy    time.Duration `json:"confirm_by,omitempty"`
	Keep         Retention     `json:"keep,omitzero"`
	MayFetch     []string      `json:"may_fetch,omitempty"`
	Renamed      []Renaming    `json:"renamed,omitempty"`
	MinFree      int64         `json:"min_free,omitempty"`
	StartTimeout time.Duration `json:"start_timeout,omitempty"`
	StopTimeout  time.Duration `json:"stop_timeout,omitempty"`
}

// handling returns what new generations are given.
func (d *Deployment) handling() Handling {
	return Handling{d.ConfirmBy, d.Keep, slices.Clone(d.MayFetch), slices.Clone(d.Renamed), d.MinFree, d.StartTimeout, d.StopTimeout}
}

// handlingOf returns how a generation is handled. What it was not given, as those of older
// versions were not, is as the deployment has it.
func (d *Deployment) handlingOf(g *Generation) Handling {
	h := g.Handling.or(d.handling())
	h.MinFree = cmp.Or(h.MinFree, defaultMinFree)
	h.StartTimeout = cmp.Or(h.StartTimeout, defaultStartTimeout)
	h.StopTimeout = cmp.Or(h.StopTimeout, defaultStopTimeout)
	return h
}

func (in *Instance) handling() Handling { return in.d.handlingOf(in.Generation) }

// or returns h with what it lacks taken from other.
func (h Handling) or(other Handling) Handling {
	h.ConfirmBy = cmp.Or(h.ConfirmBy, other.ConfirmBy)
	h.Keep = cmp.Or(h.Keep, other.Keep)
	if h.MayFetch == nil {
		h.MayFetch = other.MayFetch
	}
	if h.Renamed == nil {
		h.Renamed = other.Renamed
	}
	h.MinFree = cmp.Or(h.MinFree, other.MinFree)
	h.StartTimeout = cmp.Or(h.StartTimeout, other.StartTimeout)
	h.StopTimeout = cmp.Or(h.StopTimeout, other.StopTimeout)
	return h
}

// handle has a generation that is like g handled as that was. Whether it must be confirmed, and how
// many others are kept, is as what runs now has it, if the deployment does not say: it is
// not about the container.
func (d *Deployment) handle(g, current *Generation) {
	h := g.Handling.or(d.handling())
	d.MayFetch, d.Renamed, d.MinFree, d.StartTimeout, d.StopTimeout = h.MayFetch, h.Renamed, h.MinFree, h.StartTimeout, h.StopTimeout
	if current != nil {
		h = d.handling().or(current.Handling)
		d.ConfirmBy, d.Keep = h.ConfirmBy, h.Keep
	}
}

func (h Handling) texts() map[string]string {
	texts := map[string]string{"services that may fetch": strings.Join(h.MayFetch, ", ")}
	for name, d := range map[string]time.Duration{"confirmed by": h.ConfirmBy,
		"start timeout": cmp.Or(h.StartTimeout, defaultStartTimeout), "stop timeout": cmp.Or(h.StopTimeout, defaultStopTimeout)} {
		if d != 0 {
			texts[name] = d.String()
		}
	}
	for _, r := range h.Renamed {
		texts["account "+r.Old] = "renamed " + r.New
	}
	texts["free space"] = size(cmp.Or(h.MinFree, defaultMinFree))
	if k := h.Keep; k != (Retention{}) {
		texts["generations kept"] = fmt.Sprintf("last %d, healthy %d", k.Last, k.Healthy)
	}
	return texts
}
