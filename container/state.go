package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// record is what the state directory says of the container that runs or
// ought to. It is there from just before a launcher is started until a deliberate
// stop, so that whoever comes next finds what there is to keep or to clear away.
type record struct {
	Generation int `json:"generation"`
	// Previous is the generation to go back to while this one is not confirmed;
	// 0 for none. The pointer "current" is what confirms.
	Previous int `json:"previous,omitempty"`
	// Beside is another generation that runs: on trial, when Trial is true, and else kept to
	// return to. Moved says that traffic may go there.
	Beside *record `json:"beside,omitempty"`
	Trial  bool    `json:"trial,omitempty"`
	Moved  bool    `json:"moved,omitempty"`
	// Stopping says that it may have been asked to end. Whoever finds it alive must not count on it.
	Stopping bool `json:"stopping,omitempty"`
	// Unwanted says that it was somebody who wants it to stay stopped, see [Deployment.Stop]: Who, and Why.
	Unwanted bool      `json:"unwanted,omitempty"`
	Who      string    `json:"who,omitempty"`
	Why      string    `json:"why,omitempty"`
	Boot     string    `json:"boot"`     // bootID
	Launcher Process   `json:"launcher"` // zero until it is started
	Process  Process   `json:"process"`  // the container's process 1; zero until it is known
	Started  time.Time `json:"started"`
	// ComingUp says that it has not been healthy yet since it was started. If nobody who waits for that is there any more, whoever
	// finds it alive must do so.
	ComingUp bool `json:"coming_up,omitempty"`
}

// writeFile makes name hold data, all of it or, after a crash, what it held before.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(name))
}

// syncDir makes a rename or a removal in dir last.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(name, append(data, '\n'))
}

func readJSON(name string, v any) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %v", name, err)
	}
	return nil
}

// readRecord returns nil when nothing runs nor ought to.
func (d *Deployment) readRecord() (*record, error) {
	r := new(record)
	err := readJSON(d.path("running.json"), r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// save writes down what is recorded of the instance.
func (in *Instance) save() error {
	if in.main == nil {
		return in.d.writeRecord(in.record)
	}
	in.main.Beside = in.record
	return in.d.writeRecord(in.main)
}

func (d *Deployment) writeRecord(r *record) error {
	return writeJSON(d.path("running.json"), r)
}

func (d *Deployment) removeRecord() error {
	err := os.Remove(d.path("running.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, syncDir(d.Dir))
}

// generationPath returns a file of a generation's own directory.
func (d *Deployment) generationPath(number int, elem ...string) string {
	return d.path(append([]string{"generations", strconv.Itoa(number)}, elem...)...)
}

// Generation returns a generation by number.
// The error wraps [fs.ErrNotExist] when there is none.
func (d *Deployment) Generation(number int) (*Generation, error) {
	g := new(Generation)
	err := readJSON(d.generationPath(number, "generation.json"), g)
	if errors.Is(err, fs.ErrNotExist) {
		err = decline("there is none: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("generation %d of %s: %w", number, d.Name, err)
	}
	return g, nil
}

func (d *Deployment) writeGeneration(g *Generation) error {
	return writeJSON(d.generationPath(g.Number, "generation.json"), g)
}

// Generations returns all generations, oldest first, rejected ones included.
func (d *Deployment) Generations() ([]*Generation, error) {
	numbers, err := numbersIn(d.path("generations"))
	if err != nil {
		return nil, err
	}
	var all []*Generation
	for _, number := range numbers {
		g, err := d.Generation(number)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its making was interrupted
		}
		if err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	return all, nil
}

// generationsWith returns the numbers of the generations that have something of a name in their directories.
func (d *Deployment) generationsWith(name string) ([]int, error) {
	numbers, err := numbersIn(d.path("generations"))
	return slices.DeleteFunc(numbers, func(number int) bool {
		_, err := os.Lstat(d.generationPath(number, name))
		return errors.Is(err, fs.ErrNotExist)
	}), err
}

// numbersIn returns the numbers among the names in a directory, in order; none if there is no such directory.
// What else is there is somebody else's.
func numbersIn(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var numbers []int
	for _, e := range entries {
		if number, err := strconv.Atoi(e.Name()); err == nil {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, err
}

// Current returns the confirmed generation, nil when there is none yet.
// It may be stopped, or about to be replaced.
func (d *Deployment) Current() (*Generation, error) {
	link, err := os.Readlink(d.path("current"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(filepath.Base(link))
	if err != nil {
		return nil, fmt.Errorf("pointer %s: %q is not a generation", d.path("current"), link)
	}
	return d.Generation(number)
}

// point moves the pointer "current", at once for whoever looks.
func (d *Deployment) point(number int) error {
	next := d.path(".current")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Join("generations", strconv.Itoa(number)), next); err != nil {
		return err
	}
	if err := os.Rename(next, d.path("current")); err != nil {
		return err
	}
	d.complain("make the pointer last", syncDir(d.Dir)) // it has moved, for everybody, and what waited for that goes on
	return nil
}
