package container

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// A File is a deployment as it is written down: one system, and an environment for each
// place where it runs. It is data that looks like Guix, and is never evaluated:
//
//	(deployment
//	 (lock "channels.lock")
//	 (system (channel "project") (file "deploy/container.scm") (network? #t))
//	 (probes (all-services) (services "web")
//	         (dns "example.org" (within "500ms")) (tls "example.org:443"))
//	 (schedule (start-period "90s") (window "10s"))
//	 (pre-switch "/srv/bin/migrate" "--up" (timeout "5m"))
//	 (snapshot "state")
//	 (environment "production"
//	  (mount "state" (source "/srv/state") (target "/var/lib/web") (writable? #t) (owner "web"))
//	  (settings (URL "https://example.org"))
//	  (secret "key" (file "/etc/keys/web"))
//	  (ports 8080)
//	  (network (address "10.77.0.2") (gateway "10.77.0.1")) ; of a system without network? only
//	  (memory "8G")
//	  (runner "systemd")
//	  (probes (http "http://localhost:8080/version" (version-of "project") (within "2s"))
//	          (unix "/var/run/mysqld/mysqld.sock") (command "check-schema")))))
type File struct {
	// Lock is the name of a file with locked channels; relative to the deployment file.
	Lock string
	// Script is a run-container that was built elsewhere, in the place of Lock and System.
	Script string
	System FileSystem
	// Environments are by name. They hold all that is common to them, too.
	Environments map[string]*Deployment

	name string
	at   map[string]sexp.Pos // of fields that all environments have in common, and of the whole
}

// ErrorAt returns a *[FileError] about a field such as "lock", where it stands.
func (f *File) ErrorAt(field string, err error) error {
	pos, ok := f.at[field]
	if !ok {
		pos = f.at[""]
	}
	return &FileError{f.name, pos, err.Error()}
}

// A FileSystem says which file of which channel declares the system.
type FileSystem struct {
	Channel, File string
	Network       bool
}

// Environment returns what the file says of an environment: a deployment without
// Name, Dir and what only a program can give.
func (f *File) Environment(name string) (*Deployment, error) {
	if d := f.Environments[name]; d != nil {
		c := *d
		if d.Follows != nil {
			c.Follows, _ = f.Environment(d.Follows.Environment.Name) // it is there
		}
		return &c, nil
	}
	there := strings.Join(slices.Sorted(maps.Keys(f.Environments)), ", ")
	if name == "" {
		return nil, fmt.Errorf("no environment named; there are %s", there)
	}
	return nil, fmt.Errorf("no environment %q; there are %s", name, there)
}

// ReadFile reads a deployment file. The name is for messages.
// Mistakes are a *[FileError] or a *[sexp.SyntaxError], both with their place.
func ReadFile(name string, r io.Reader) (*File, error) {
	reader := sexp.NewReader(r)
	reader.File = name
	v, pos, err := reader.NextAt()
	if errors.Is(err, io.EOF) {
		return nil, &FileError{name, reader.Pos(), "there is no (deployment …)"}
	}
	if err != nil {
		return nil, err
	}
	top, err := newForm(name, v, pos)
	if err != nil {
		return nil, err
	}
	if top.key != "deployment" {
		return nil, &FileError{name, pos, fmt.Sprintf("(%s …) is not a deployment", top.key)}
	}
	if _, more, err := reader.NextAt(); err == nil {
		return nil, &FileError{name, more, "there is something after the deployment"}
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return readDeployment(top)
}

func readDeployment(top form) (*File, error) {
	file := &File{Environments: make(map[string]*Deployment), name: top.file, at: map[string]sexp.Pos{"": top.pos}}
	common := Deployment{places: make(map[string]string)}
	var places []form
	var follows []following
	t := fieldsOf(&common)
	t["script"] = toText(&file.Script)
	t["lock"] = func(f form) error {
		file.at["lock"] = f.pos
		return toText(&file.Lock)(f)
	}
	t["system"] = func(f form) error {
		file.at["system"] = f.pos
		return f.fields(0, table{"channel": toText(&file.System.Channel), "file": toText(&file.System.File),
			"network?": toBool(&file.System.Network)})
	}
	t["environment…"] = func(f form) error { places = append(places, f); return nil }
	if err := top.fields(0, t); err != nil {
		return nil, err
	}
	switch {
	case len(places) == 0:
		return nil, top.errorf("no environment")
	case file.Script != "" && (file.Lock != "" || file.System != FileSystem{}):
		return nil, top.errorf("a script has its lock and system behind it: leave them out")
	case file.Script == "" && (file.System.Channel == "" || file.System.File == ""):
		return nil, top.errorf("no system with a channel and a file, nor a script")
	}
	for _, place := range places {
		if err := file.readEnvironment(place, common, &follows); err != nil {
			return nil, err
		}
	}
	for _, f := range follows {
		if err := file.follow(f); err != nil {
			return nil, err
		}
	}
	return file, nil
}

// readEnvironment reads an environment on top of what all have in common.
func (file *File) readEnvironment(f form, d Deployment, follows *[]following) error {
	name, err := f.text(0)
	if err != nil {
		return err
	}
	if file.Environments[name] != nil {
		return f.errorAt(0, "%q is there twice", name)
	}
	d.Shares, d.Exposes, d.Probes = slices.Clone(d.Shares), slices.Clone(d.Exposes), slices.Clone(d.Probes)
	d.Switch = d.Switch.clone()
	d.MayFetch, d.Renamed = slices.Clone(d.MayFetch), slices.Clone(d.Renamed)
	d.places = maps.Clone(d.places)
	d.places["free-space"] = cmp.Or(d.places["free-space"], f.place()) // there is a default for what is not said
	e := &d.Environment
	e.Settings, e.Secrets = maps.Clone(e.Settings), slices.Clone(e.Secrets)
	e.Required, e.Ports = slices.Clone(e.Required), slices.Clone(e.Ports)
	e.Name = name
	file.Environments[name] = &d
	t := fieldsOf(&d)
	t["follows"] = d.placed(func(f form) error {
		followed, err := f.only()
		*follows = append(*follows, following{f, name, followed})
		return err
	})
	return f.fields(1, t)
}

// fieldsOf are the fields that the deployment and each environment have.
func fieldsOf(d *Deployment) table {
	e := &d.Environment
	t := table{
		"mount…":          d.readMount,
		"settings":        d.readSettings,
		"settings-format": e.readFormat,
		"required":        d.placedTexts(&e.Required),
		"secret…":         d.readSecret,
		"target":          d.placed(toText(&e.Target)),
		"ports":           d.placed(e.readPorts),
		"network":         d.placed(e.Network.readNetwork),
		"memory":          d.placed(toSize(&e.Limits.Memory)),
		"tasks":           toInt(&e.Limits.Tasks),
		"runner":          d.placed(e.readRunner),
		"probes":          d.readProbes,
		"schedule":        d.Schedule.read,
		"start-timeout":   toDuration(&d.StartTimeout),
		"stop-timeout":    toDuration(&d.StopTimeout),
		"confirm-by":      toDuration(&d.ConfirmBy),
		"keep": func(f form) error {
			return f.fields(0, table{"last": toInt(&d.Keep.Last), "healthy": toInt(&d.Keep.Healthy)})
		},
		"free-space": d.placed(toSize(&d.MinFree)),
		"may-fetch":  toTexts(&d.MayFetch),
		"renamed…":   d.readRenamed,
	}
	maps.Copy(t, d.readSwitch())
	return t
}

// placed remembers where a field stands, for what may be said of it later.
func (d *Deployment) placed(read func(form) error) func(form) error {
	return func(f form) error {
		d.places[f.key] = f.place()
		return read(f)
	}
}

// placedTexts remembers where each name in a field stands.
func (d *Deployment) placedTexts(to *[]string) func(form) error {
	return func(f form) error {
		from := len(*to)
		err := toTexts(to)(f)
		for i, text := range (*to)[from:] {
			d.places[f.key+" "+text] = f.placeOf(i)
		}
		return err
	}
}

func (s *Schedule) read(f form) error {
	return f.fields(0, table{"start-period": toDuration(&s.StartPeriod), "interval": toDuration(&s.Interval),
		"timeout": toDuration(&s.Timeout), "window": toDuration(&s.Window), "threshold": toInt(&s.Threshold)})
}

// readMount reads (mount NAME FIELD…).
func (d *Deployment) readMount(f form) error {
	var m Mount
	var writable bool
	var err error
	if m.Name, err = f.text(0); err != nil {
		return err
	}
	if place, ok := d.places["mount "+m.Name]; ok {
		return f.errorAt(0, "%q is there already, at %s", m.Name, place)
	}
	d.places["mount "+m.Name] = f.place()
	err = f.fields(1, table{"source": toText(&m.Source), "target": toText(&m.Target),
		"owner": toText(&m.Owner), "writable?": toBool(&writable), "concurrent?": toBool(&m.Concurrent)})
	switch {
	case err != nil:
		return err
	case m.Source == "":
		return f.errorf("%q has no source", m.Name)
	case m.Owner != "" && !writable:
		return f.errorf("%q is read-only: an owner means nothing", m.Name)
	case writable:
		d.Shares = append(d.Shares, m)
	default:
		d.Exposes = append(d.Exposes, m)
	}
	return nil
}

// readSettings reads (settings (NAME VALUE)…); those of an environment come on
// top of the common ones.
func (d *Deployment) readSettings(f form) error {
	e := &d.Environment
	if e.Settings == nil {
		e.Settings = make(map[string]string)
	}
	mine := make(map[string]bool)
	for i := range f.args {
		setting, err := newForm(f.file, f.args[i], f.at[i])
		if err != nil {
			return err
		}
		if mine[setting.key] {
			return setting.errorf("is set twice")
		}
		mine[setting.key] = true
		d.places["setting "+setting.key] = setting.place()
		if e.Settings[setting.key], err = setting.only(); err != nil {
			return err
		}
	}
	return nil
}

func (e *Environment) readFormat(f form) error {
	var text string
	if err := toText(&text)(f); err != nil {
		return err
	}
	formats := map[string]Format{"shell": Shell, "scheme": Scheme, "json": JSON}
	format, ok := formats[text]
	if !ok {
		return f.errorAt(0, "%q is none of shell, scheme, json", text)
	}
	e.Format = format
	return nil
}

// readRunner reads (runner NAME). The names are those that guixci's own programs know.
func (e *Environment) readRunner(f form) error {
	var text string
	if err := toText(&text)(f); err != nil {
		return err
	}
	runners := map[string]string{"supervisor": "", "systemd": "systemd", "shepherd": "shepherd"}
	name, ok := runners[text]
	if !ok {
		return f.errorAt(0, "%q is none of supervisor, systemd, shepherd", text)
	}
	e.Runner = name
	return nil
}

// readSecret reads (secret NAME FIELD…).
func (d *Deployment) readSecret(f form) error {
	var s Secret
	var err error
	if s.Name, err = f.text(0); err != nil {
		return err
	}
	if err := f.fields(1, table{"file": toText(&s.File), "uid": toInt(&s.UID), "gid": toInt(&s.GID)}); err != nil {
		return err
	}
	if s.File == "" {
		return f.errorf("%q has no file", s.Name)
	}
	d.places["secret "+s.Name] = f.place()
	d.Environment.Secrets = append(d.Environment.Secrets, s)
	return nil
}

func (e *Environment) readPorts(f form) error {
	for i, v := range f.args {
		port, ok := v.(sexp.Int)
		if !ok || port < 1 || port > 65535 {
			return f.errorAt(i, "%.40s is not a port", v)
		}
		e.Ports = append(e.Ports, int(port))
	}
	return nil
}
