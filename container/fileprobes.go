package container

import (
	"cmp"
	"net"
	"net/url"
	"path"
	"regexp"
)

// readProbes reads (probes PROBE…); those of an environment are added to the common ones.
func (d *Deployment) readProbes(f form) error {
	t := make(table)
	for kind, read := range probeReaders {
		t[kind+"…"] = func(f form) error {
			p, err := read(f)
			if err == nil {
				d.Probes = append(d.Probes, p)
				d.places["probe "+p.String()] = f.place()
			}
			return err
		}
	}
	return f.fields(0, t)
}

// probeReaders read the kinds of probes, each (KIND VALUE… FIELD…).
var probeReaders = map[string]func(form) (Probe, error){
	"process": func(f form) (Probe, error) { return Alive{}, f.fields(0, nil) },
	"all-services": func(f form) (Probe, error) {
		var p AllServices
		err := f.fields(0, table{"except": toTexts(&p.Except)})
		return p, err
	},
	"services": func(f form) (Probe, error) {
		var p Services
		err := f.someTexts(&p.Names)
		return p, err
	},
	"command": func(f form) (Probe, error) {
		var p Command
		err := f.someTexts(&p.Arguments)
		return p, err
	},
	"http": readHTTP,
	"tcp": func(f form) (Probe, error) {
		var p TCP
		err := cmp.Or(f.address(&p.Address), f.fields(1, table{"inside?": toBool(&p.Inside)}))
		return p, err
	},
	"unix": func(f form) (Probe, error) {
		var p Unix
		err := toText(&p.Path)(f)
		if err == nil && !path.IsAbs(p.Path) {
			err = f.errorAt(0, "%q is not an absolute file name", p.Path)
		}
		return p, err
	},
	"tls": func(f form) (Probe, error) {
		var p TLS
		err := cmp.Or(f.address(&p.Address), f.fields(1, table{
			"certificates": toText(&p.Certificates), "valid-for": toDuration(&p.ValidFor)}))
		return p, err
	},
	"dns": func(f form) (p Probe, err error) {
		var dns DNS
		if dns.Name, err = f.referring(0); err == nil {
			err = f.fields(1, table{"within": toDuration(&dns.Within)})
		}
		return dns, err
	},
}

// addressVariable is where an address of IPv6 is put into a URL.
var addressVariable = regexp.MustCompile(`\[\$\{\w+\}\]`)

// readHTTP reads (http URL FIELD…).
func readHTTP(f form) (Probe, error) {
	text, err := f.referring(0)
	if err != nil {
		return nil, err
	}
	example := addressVariable.ReplaceAllString(text, "[::1]")
	example = reference.ReplaceAllString(example, "1") // it is a setting, such as a port
	if u, err := url.Parse(example); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, f.errorAt(0, "%q is not a URL of http or https", text)
	}
	p := HTTP{URL: text}
	err = f.fields(1, table{"status": toInt(&p.Status), "contains": toText(&p.Contains), "within": toDuration(&p.Within),
		"version": toText(&p.Version), "version-of": toText(&p.VersionOf), "header": toText(&p.Header),
		"inside?": toBool(&p.Inside)})
	if err == nil && p.Header != "" && p.Version == "" && p.VersionOf == "" {
		err = f.errorf("header %q: say which version, or the version-of which channel, is wanted there", p.Header)
	}
	return p, err
}

// someTexts reads one string or more.
func (f form) someTexts(to *[]string) error {
	if len(f.args) == 0 {
		return f.errorf("a string is missing")
	}
	return toTexts(to)(f)
}

// address reads the first argument, HOST:PORT.
func (f form) address(to *string) (err error) {
	if *to, err = f.referring(0); err != nil {
		return err
	}
	if _, port, err := net.SplitHostPort(*to); err != nil || port == "" {
		return f.errorAt(0, "%q is not of the form HOST:PORT", *to)
	}
	return nil
}

// referring returns argument i, a text that may refer to settings.
func (f form) referring(i int) (string, error) {
	text, err := f.text(i)
	if wrong := mistakenIn(text); err == nil && wrong != "" {
		err = f.errorAt(i, "%s would be taken as it is: ${NAME} is the setting of that name, and a dollar sign in a URL is %%24", wrong)
	}
	return text, err
}
