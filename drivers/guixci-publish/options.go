package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/genenetwork/guixci/substitute"
)

// options are those of "guix publish", and some more.
type options struct {
	listen, port           string
	user                   string
	compression            []substitute.Compression
	cache                  string
	cacheSize              int64
	narPath                string
	workers                int
	ttl, negativeTTL       time.Duration
	publicKey, privateKey  string
	database               string
	advertise              bool
	generateKey, metrics   bool
	help, version, verbose bool
	args                   []string // what is no option
	given                  []string // long names of the options
}

// An option is one of the command line, spelled as for getopt_long.
type option struct {
	short    byte
	long     string
	argument int // one of none, optional, required
	set      func(o *options, value string) error
}

const (
	none = iota
	optional
	required
)

func str(field func(*options) *string) func(*options, string) error {
	return func(o *options, value string) error {
		*field(o) = value
		return nil
	}
}

func truth(field func(*options) *bool) func(*options, string) error {
	return func(o *options, _ string) error {
		*field(o) = true
		return nil
	}
}

func duration(field func(*options) *time.Duration) func(*options, string) error {
	return func(o *options, value string) (err error) {
		*field(o), err = parseDuration(value)
		return err
	}
}

var table = []option{
	{'p', "port", required, str(func(o *options) *string { return &o.port })},
	{0, "listen", required, str(func(o *options) *string { return &o.listen })},
	{'u', "user", required, str(func(o *options) *string { return &o.user })},
	{'C', "compression", optional, addCompression},
	{'c', "cache", required, str(func(o *options) *string { return &o.cache })},
	{0, "cache-size", required, func(o *options, value string) (err error) {
		o.cacheSize, err = parseSize(value)
		return err
	}},
	// Ours never makes a client wait for baking, whatever the size.
	{0, "cache-bypass-threshold", required, func(_ *options, value string) error {
		_, err := parseSize(value)
		return err
	}},
	{0, "workers", required, func(o *options, value string) (err error) {
		if o.workers, err = strconv.Atoi(value); err != nil || o.workers < 1 {
			return fmt.Errorf("%q is no number of workers", value)
		}
		return nil
	}},
	{0, "ttl", required, duration(func(o *options) *time.Duration { return &o.ttl })},
	{0, "negative-ttl", required, duration(func(o *options) *time.Duration { return &o.negativeTTL })},
	{0, "nar-path", required, str(func(o *options) *string { return &o.narPath })},
	{'a', "advertise", none, truth(func(o *options) *bool { return &o.advertise })},
	{'r', "repl", optional, func(*options, string) error {
		return errors.New("there is no Guile here to talk to")
	}},
	{0, "public-key", required, str(func(o *options) *string { return &o.publicKey })},
	{0, "private-key", required, str(func(o *options) *string { return &o.privateKey })},
	{0, "secret-key", required, str(func(o *options) *string { return &o.privateKey })}, // its old name
	{0, "store-database", required, str(func(o *options) *string { return &o.database })},
	{0, "generate-key", none, truth(func(o *options) *bool { return &o.generateKey })},
	{0, "metrics", none, truth(func(o *options) *bool { return &o.metrics })},
	{0, "verbose", none, truth(func(o *options) *bool { return &o.verbose })},
	{'h', "help", none, truth(func(o *options) *bool { return &o.help })},
	{'V', "version", none, truth(func(o *options) *bool { return &o.version })},
}

// parse reads a command line as getopt_long does: options may come after other
// arguments, until "--"; long ones may be shortened; short ones may have their argument attached. As in
// Guile, whose option parser guix publish has, the argument of a short one may be the next word even
// if it is optional: the service of Guix says "-C zstd:3".
func parse(args []string) (*options, error) {
	o := &options{port: "8080", listen: "0.0.0.0"}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		var err error
		switch {
		case arg == "--":
			o.args = append(o.args, args...)
			return o, nil
		case strings.HasPrefix(arg, "--"):
			args, err = o.long(arg[2:], args)
		case len(arg) > 1 && arg[0] == '-':
			args, err = o.short(arg[1:], args)
		default:
			o.args = append(o.args, arg)
		}
		if err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (o *options) long(arg string, rest []string) ([]string, error) {
	name, value, has := strings.Cut(arg, "=")
	opt, err := find(name)
	if err != nil {
		return nil, err
	}
	switch {
	case has && opt.argument == none:
		return nil, fmt.Errorf("--%s takes no argument", opt.long)
	case !has && opt.argument == required:
		if len(rest) == 0 {
			return nil, fmt.Errorf("--%s needs an argument", opt.long)
		}
		value, rest = rest[0], rest[1:]
	}
	if err := opt.set(o, value); err != nil {
		return nil, fmt.Errorf("--%s: %w", opt.long, err)
	}
	o.given = append(o.given, opt.long)
	return rest, nil
}

// find knows abbreviations that are not ambiguous.
func find(name string) (*option, error) {
	var found []*option
	for i := range table {
		if table[i].long == name {
			return &table[i], nil
		}
		if strings.HasPrefix(table[i].long, name) {
			found = append(found, &table[i])
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("unknown option --%s", name)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("option --%s is ambiguous: --%s or --%s", name, found[0].long, found[1].long)
}

func (o *options) short(letters string, rest []string) ([]string, error) {
	for letters != "" {
		i := slices.IndexFunc(table, func(opt option) bool { return opt.short == letters[0] })
		if i < 0 {
			return nil, fmt.Errorf("unknown option -%c", letters[0])
		}
		opt, value := &table[i], ""
		letters = letters[1:]
		if opt.argument != none {
			value, letters = letters, ""
		}
		switch {
		case value != "" || opt.argument == none:
		case len(rest) > 0 && (opt.argument == required || !strings.HasPrefix(rest[0], "-")):
			value, rest = rest[0], rest[1:]
		case opt.argument == required:
			return nil, fmt.Errorf("-%c needs an argument", opt.short)
		}
		if err := opt.set(o, value); err != nil {
			return nil, fmt.Errorf("-%c: %w", opt.short, err)
		}
		o.given = append(o.given, opt.long)
	}
	return rest, nil
}

// addCompression reads METHOD[:LEVEL], or a level of gzip; 0 is no compression.
func addCompression(o *options, value string) error {
	method, level, has := strings.Cut(value, ":")
	if _, err := strconv.Atoi(method); err == nil && !has {
		method, level, has = "gzip", method, true
	}
	c := substitute.Compression{Method: method}
	if method == "" {
		c.Method = "gzip"
	}
	if has {
		n, err := strconv.Atoi(level)
		if err != nil || n < 0 || n > 22 {
			return fmt.Errorf("%q is no level of compression", level)
		}
		if c.Level = n; n == 0 {
			c.Method = "none"
		}
	}
	if !slices.Contains([]string{"gzip", "lzip", "zstd", "none"}, c.Method) {
		return fmt.Errorf("unknown compression %q; known are gzip, lzip, zstd and none", c.Method)
	}
	o.compression = append(o.compression, c)
	return nil
}

// parseDuration reads 30s, 12h, 5d, 3w or 1m, which is a month of 30 days, like guix publish.
func parseDuration(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	units := map[byte]time.Duration{'s': time.Second, 'h': time.Hour, 'd': day, 'w': 7 * day, 'm': 30 * day}
	if s != "" {
		unit := units[s[len(s)-1]]
		n, err := strconv.ParseInt(s[:len(s)-1], 10, 64)
		if unit > 0 && err == nil && n >= 0 && n <= math.MaxInt64/int64(unit) {
			return time.Duration(n) * unit, nil
		}
	}
	return 0, fmt.Errorf("%q is no duration like 90s, 12h, 5d, 3w or 1m (30 days)", s)
}

// parseSize reads a number of bytes, 1.5 or so, with a unit as in GNU programs: K and KiB are 1024, kB is 1000.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "kKMGTPEiB")
	unit := s[len(digits):]
	n, err := strconv.ParseFloat(digits, 64)
	if unit != "" && unit != "B" {
		base := 1024.0
		if strings.HasSuffix(unit, "B") && !strings.HasSuffix(unit, "iB") {
			base = 1000
		}
		power := strings.IndexByte("KMGTPE", strings.ToUpper(unit)[0])
		if known := strings.TrimSuffix(strings.TrimSuffix(unit[1:], "B"), "i"); power < 0 || known != "" {
			return 0, fmt.Errorf("%q is no size", s)
		}
		n *= math.Pow(base, float64(power+1))
	}
	if err != nil || !(n >= 0 && n < math.MaxInt64) {
		return 0, fmt.Errorf("%q is no size", s)
	}
	return int64(math.Round(n)), nil
}
