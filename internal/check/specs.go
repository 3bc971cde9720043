package check

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/specification"
	"github.com/genenetwork/guixci/internal/cli"
)

// Load reads files of specifications. What is wrong in them is a *[cli.UsageError].
func Load(ctx context.Context, files []string) (specs []guixci.Specification, err error) {
	from := map[string]string{}
	for _, file := range files {
		some, err := specification.Load(ctx, file, nil)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, &cli.UsageError{Err: err}
		}
		for _, s := range some {
			if other, twice := from[s.Name]; twice {
				return nil, &cli.UsageError{Err: fmt.Errorf("%s: there is a specification %q in %s already", file, s.Name, other)}
			}
			from[s.Name] = file
		}
		specs = append(specs, some...)
	}
	if len(specs) == 0 {
		return nil, &cli.UsageError{Err: fmt.Errorf("there is no specification in %s", strings.Join(files, ", "))}
	}
	return specs, nil
}

// OfChannels makes the specification that has the channels of a file, a channels.scm. The build
// is the value of field build, empty for the packages of all channels but guix; jobs are those that
// must succeed. What is wrong is a *[cli.UsageError].
func OfChannels(file, build string, jobs []string) (guixci.Specification, error) {
	s := guixci.Specification{Green: record.Policy{Jobs: jobs}}
	f, err := os.Open(file)
	if err != nil {
		return s, &cli.UsageError{Err: err}
	}
	defer f.Close()
	if s.Channels, err = channel.ReadList(file, f); err != nil {
		return s, &cli.UsageError{Err: err}
	}
	if build != "" {
		if s.Build, err = specification.ParseBuild(build); err != nil {
			return s, &cli.UsageError{Err: err}
		}
	}
	// The same file is the same specification, wherever it is called from.
	name, err := filepath.Abs(file)
	if err != nil {
		return s, &cli.UsageError{Err: err}
	}
	s.Name = specName(name)
	var wrong *guixci.SpecificationError
	if err := s.Check(); errors.As(err, &wrong) {
		return s, &cli.UsageError{Err: fmt.Errorf("%s: %w", file, wrong.Err)}
	}
	return s, nil
}

// specName turns a file name into a specification's: /etc/guix/channels.scm becomes
// etc-guix-channels-d6ab133b. The digits tell it from /etc/guix-channels.scm.
func specName(file string) string {
	name := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' {
			return c
		}
		return '-'
	}, strings.TrimSuffix(file, ".scm"))
	return strings.TrimLeft(fmt.Sprintf("%s-%08x", name, crc32.ChecksumIEEE([]byte(file))), "-._")
}
