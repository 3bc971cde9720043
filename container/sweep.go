package container

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// temporary are the names of files that are about to be renamed, see writeFile and point.
var temporary = regexp.MustCompile(`^\.(current|.*\.[0-9]+)$`)

// sweep removes what processes that were killed have left half made: files before their
// renaming, generations without a description. Whoever calls it holds the lease.
func (d *Deployment) sweep() error {
	errs := []error{sweepFiles(d.Dir)}
	numbers, err := numbersIn(d.path("generations"))
	if err != nil {
		return err
	}
	for _, number := range numbers {
		errs = append(errs, sweepFiles(d.generationPath(number)))
		if _, err := os.Stat(d.generationPath(number, "generation.json")); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, d.remove(&Generation{Number: number}))
		}
	}
	return errors.Join(errs...)
}

func sweepFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if !e.IsDir() && temporary.MatchString(e.Name()) {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
