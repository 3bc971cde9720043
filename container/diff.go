package container

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

type (
	// A Difference is what distinguishes two generations, in order.
	Difference struct {
		SameScript bool    `json:"same_script"` // both run the same store item
		Lines      []Line  `json:"lines"`
		Rebuilt    Rebuilt `json:"rebuilt,omitzero"`
	}
	// A Line is one thing that differs.
	Line struct {
		Kind Kind   `json:"kind"`
		Name string `json:"name"`
		Old  string `json:"old,omitempty"` // empty if there is none
		New  string `json:"new,omitempty"`
		// Size is by how many bytes a package has grown, all its items taken
		// together; 0 for other kinds.
		Size int64 `json:"size,omitempty"`
	}
	// A Kind says what a Line is about.
	Kind string
)

// The kinds of differences.
const (
	OfMount   Kind = "mount"
	OfSetting Kind = "setting"
	OfSecret  Kind = "secret" // where it is, never what
	OfBinding Kind = "binding"
	OfProbe   Kind = "probe"
	OfChannel Kind = "channel"
	OfStore   Kind = "store" // the run-container
	OfPackage Kind = "package"
	OfFile    Kind = "file" // of the system: an item without a version
	OfService Kind = "service"
	OfUser    Kind = "user"
	OfGroup   Kind = "group"
)

// Diff returns what distinguishes two generations, of one deployment or of two.
// Without closures, nil, or where the store item is the same, only what they are
// given from outside and their channels are compared.
func Diff(ctx context.Context, closures Closures, old, new *Generation) (*Difference, error) {
	d := &Difference{SameScript: old.Script == new.Script, Lines: diffBindings(old, new)}
	if d.SameScript {
		return d, nil
	}
	d.Lines = append(d.Lines, Line{Kind: OfStore, Name: "item", Old: old.Script, New: new.Script})
	if closures == nil {
		return d, nil
	}
	was, err := ReadSystem(ctx, closures, old.Script)
	if err != nil {
		return nil, err
	}
	is, err := ReadSystem(ctx, closures, new.Script)
	if err != nil {
		return nil, err
	}
	d.addSystems(was, is)
	return d, nil
}

// distinguish is Diff, or, where there was nothing before, describe.
func distinguish(ctx context.Context, closures Closures, old, new *Generation) (*Difference, error) {
	if old == nil {
		return describe(ctx, closures, new)
	}
	return Diff(ctx, closures, old, new)
}

// describe returns what distinguishes a generation from nothing, its packages and accounts left out.
func describe(ctx context.Context, closures Closures, g *Generation) (*Difference, error) {
	d := &Difference{Lines: diffBindings(new(Generation), g)}
	for i := range d.Lines {
		d.Lines[i].Old = "" // what would hold otherwise
	}
	if closures == nil {
		return d, nil
	}
	s, err := ReadSystem(ctx, closures, g.Script)
	if err != nil {
		return nil, err
	}
	d.Lines = append(d.Lines, diffMaps(OfService, nil, services(s))...)
	return d, nil
}

// OnlyBindings reports whether nothing differs but what environments may: the store
// item and the commits of all channels are the same.
func (d *Difference) OnlyBindings() bool {
	return d.SameScript && !slices.ContainsFunc(d.Lines, func(l Line) bool { return l.Kind == OfChannel })
}

func diffBindings(old, new *Generation) []Line {
	var lines []Line
	lines = append(lines, diffMaps(OfMount, mountTexts(old), mountTexts(new))...)
	a, b := old.Environment, new.Environment
	lines = append(lines, diffMaps(OfBinding, a.texts(), b.texts())...)
	lines = append(lines, diffMaps(OfSetting, a.Settings, b.Settings)...)
	lines = append(lines, diffMaps(OfSecret, secretTexts(a), secretTexts(b))...)
	lines = append(lines, diffMaps(OfProbe, old.Probes.texts(), new.Probes.texts())...)
	lines = append(lines, diffMaps(OfBinding, old.changeTexts(), new.changeTexts())...)
	return append(lines, diffMaps(OfChannel, channelTexts(old), channelTexts(new))...)
}

func mountTexts(g *Generation) map[string]string {
	texts := make(map[string]string)
	add := func(mounts []Mount, mode string) {
		for _, m := range mounts {
			texts[cmp.Or(m.Name, m.target())] = m.Source + " at " + m.target() + ", " + mode
		}
	}
	add(g.Shares, "writable")
	add(g.Exposes, "read-only")
	return texts
}

func secretTexts(e Environment) map[string]string {
	texts := make(map[string]string)
	for _, s := range e.Secrets {
		texts[s.Name] = fmt.Sprintf("%s, for %d:%d", s.File, s.UID, s.GID)
	}
	return texts
}

// texts are the rest of an environment.
func (e Environment) texts() map[string]string {
	texts := map[string]string{"environment": e.Name, "format of settings": string(e.Format), "directory of settings": e.Target,
		"runner": e.Runner, "network": e.Network.String()}
	if e.Limits.Memory != 0 {
		texts["memory limit"] = size(e.Limits.Memory)
	}
	if e.Limits.Tasks != 0 {
		texts["task limit"] = strconv.Itoa(e.Limits.Tasks)
	}
	for _, port := range e.Ports {
		texts["port "+strconv.Itoa(port)] = "used"
	}
	return texts
}

// texts are what the probes want, by where they look. Those that are not kept with a generation are left out: an older
// one may have had them or not.
func (p Probes) texts() map[string]string {
	texts := make(map[string]string)
	for _, probe := range p {
		if name := probe.String(); kindOf(probe) != "" {
			texts[name] = strings.TrimPrefix(texts[name]+"; "+conditions(probe), "; ")
		}
	}
	return texts
}

// conditions says what else a probe wants than what its name has, which is what cannot be left out.
func conditions(p Probe) string {
	var all []string
	v := reflect.ValueOf(p)
	for i := range v.NumField() {
		name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if option == "" || v.Field(i).IsZero() {
			continue
		}
		text := strings.ReplaceAll(name, "_", " ")
		switch value := v.Field(i).Interface().(type) {
		case bool:
		case []string:
			text += " " + strings.Join(value, ", ")
		default:
			text += fmt.Sprintf(" %v", value)
		}
		all = append(all, text)
	}
	return cmp.Or(strings.Join(all, ", "), "must pass")
}

// changeTexts say how the generation was, or would be, switched to, and how it is handled.
func (g *Generation) changeTexts() map[string]string {
	s, w := g.Schedule.withDefaults(), g.Switch
	texts := map[string]string{
		"schedule": fmt.Sprintf("start period %v, interval %v, timeout %v, window %v, threshold %d", s.StartPeriod, s.Interval, s.Timeout, s.Window, s.Threshold),
		"switch":   string(w.Mode), "snapshot": strings.Join(w.Snapshot, ", "),
	}
	if w.Mode == SideBySide {
		texts["drain"] = cmp.Or(w.Drain, defaultDrain).String()
		if w.StopOld {
			texts["drain"] += ", then stop"
		}
	}
	if w.Traffic != nil {
		texts["hook that moves the traffic"] = strings.Join(w.Traffic.Command, " ")
	}
	maps.Copy(texts, g.Handling.texts())
	for i, h := range w.Hooks {
		texts[fmt.Sprintf("hook %d", i+1)] = strings.Join(h.Command, " ")
	}
	return texts
}

func channelTexts(g *Generation) map[string]string {
	texts := make(map[string]string)
	for _, c := range g.Channels {
		texts[c.Name] = strings.TrimPrefix(c.URL+" "+c.Commit, " ")
	}
	return texts
}

// diffMaps compares two maps; an empty text is as good as none.
func diffMaps(kind Kind, old, new map[string]string) []Line {
	var lines []Line
	names := maps.Clone(old)
	if names == nil {
		names = make(map[string]string)
	}
	maps.Copy(names, new)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if old[name] != new[name] {
			lines = append(lines, Line{Kind: kind, Name: name, Old: old[name], New: new[name]})
		}
	}
	return lines
}

// size prints a number of bytes for people.
func size(n int64) string {
	value, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		if value < 1024 && value > -1024 {
			break
		}
		value, unit = value/1024, next
	}
	return strings.TrimSuffix(strconv.FormatFloat(value, 'f', 1, 64), ".0") + " " + unit
}

// WriteTo prints the difference for people, one thing a line:
// "+" for what is new, "-" for what is gone, "~" for what has changed; of what is Rebuilt how much it is.
func (d *Difference) WriteTo(w io.Writer) (int64, error) {
	var text strings.Builder
	if d.SameScript {
		text.WriteString("  the same store item\n")
	}
	for _, l := range d.Lines {
		text.WriteString(l.String() + "\n")
	}
	if n := d.Rebuilt.Packages; n > 0 {
		fmt.Fprintf(&text, "  packages built again, same version: %d\n", n)
	}
	if n := d.Rebuilt.Files; n > 0 {
		fmt.Fprintf(&text, "  files of the system that only refer to other store items: %d\n", n)
	}
	n, err := io.WriteString(w, text.String())
	return int64(n), err
}

// String returns the line of [Difference.WriteTo].
func (l Line) String() string {
	grown := ""
	if l.Size != 0 {
		grown = " (" + signed(l.Size) + ")"
	}
	switch {
	case l.Old == "":
		return fmt.Sprintf("+ %s %s: %s%s", l.Kind, l.Name, l.New, grown)
	case l.New == "":
		return fmt.Sprintf("- %s %s: %s%s", l.Kind, l.Name, l.Old, grown)
	}
	return fmt.Sprintf("~ %s %s: %s -> %s%s", l.Kind, l.Name, l.Old, l.New, grown)
}

func signed(n int64) string {
	if n > 0 {
		return "+" + size(n)
	}
	return size(n)
}
