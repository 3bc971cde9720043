package container

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Rebuilt is what has other store items in one system than in the other, and no line of its own:
// after most pulls that is everything.
type Rebuilt struct {
	// Packages are those of the same versions and about the same size.
	Packages int `json:"packages"`
	// Files are those of the system that are the same but for the hashes of items they refer to.
	Files int `json:"files"`
	// Items are all of them, with the store items that only the old one has, and only the new one. The ledger
	// does without.
	Items []Line `json:"items,omitempty"`
}

func (d *Difference) addSystems(old, new *System) {
	d.addPackages(old.Items, new.Items)
	d.addFiles(old.Items, new.Items)
	d.Lines = append(d.Lines, diffMaps(OfService, services(old), services(new))...)
	d.Lines = append(d.Lines, diffMaps(OfUser, idTexts(old.Users), idTexts(new.Users))...)
	d.Lines = append(d.Lines, diffMaps(OfGroup, idTexts(old.Groups), idTexts(new.Groups))...)
}

func services(s *System) map[string]string {
	texts := make(map[string]string)
	for _, item := range s.Items {
		if name, ok := strings.CutPrefix(itemName(item.Path), "shepherd-"); ok && strings.HasSuffix(name, ".scm") {
			texts[strings.TrimSuffix(name, ".scm")] = item.Path
		}
	}
	return texts
}

func idTexts(ids IDs) map[string]string {
	texts := make(map[string]string)
	for name, id := range ids {
		texts[name] = strconv.Itoa(id)
	}
	return texts
}

// A bundle is all items of a closure that have the same package name.
type bundle struct {
	items    []string
	versions []string
	size     int64
}

// addPackages compares closures by package name: versions and sizes.
func (d *Difference) addPackages(old, new []Item) {
	was, is := bundles(old), bundles(new)
	names := maps.Clone(was)
	maps.Copy(names, is)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		line := Line{Kind: OfPackage, Name: name, Old: was[name].text(), New: is[name].text(), Size: is[name].size - was[name].size}
		const unworthy = 8 << 10 // store file names of another length, and the like
		if line.Old != line.New || max(line.Size, -line.Size) >= unworthy {
			d.Lines = append(d.Lines, line)
			continue
		}
		line.Old, line.New = missing(was[name].items, is[name].items), missing(is[name].items, was[name].items)
		if line.Old != line.New {
			d.Rebuilt.Packages++
			d.Rebuilt.Items = append(d.Rebuilt.Items, line)
		}
	}
}

// missing returns those of some that others lack.
func missing(some, others []string) string {
	var only []string
	for _, name := range some {
		if !slices.Contains(others, name) {
			only = append(only, name)
		}
	}
	return strings.Join(only, ", ")
}

func (b bundle) text() string { return strings.Join(b.versions, ", ") }

func bundles(items []Item) map[string]bundle {
	all := make(map[string]bundle)
	for _, item := range items {
		name, version := splitVersion(itemName(item.Path))
		if version == "" {
			continue // a file of the system itself
		}
		b := all[name]
		b.items = append(b.items, item.Path)
		if !slices.Contains(b.versions, version) {
			b.versions = append(b.versions, version)
			slices.Sort(b.versions)
		}
		b.size += item.Size
		all[name] = b
	}
	return all
}

// splitVersion cuts a name at the first hyphen that a digit follows,
// as package-name->name+version does.
func splitVersion(name string) (string, string) {
	for i := 0; i+1 < len(name); i++ {
		if name[i] == '-' && name[i+1] >= '0' && name[i+1] <= '9' {
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}

// addFiles compares the files of two systems, which have no versions, by name and contents. Those of services are left out.
func (d *Difference) addFiles(old, new []Item) {
	was, is := files(old), files(new)
	names := maps.Clone(was)
	maps.Copy(names, is)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		line := Line{Kind: OfFile, Name: name, Old: missing(was[name], is[name]), New: missing(is[name], was[name])}
		switch {
		case line.Old == line.New:
		case slices.Equal(digests(was[name]), digests(is[name])):
			d.Rebuilt.Files++
			d.Rebuilt.Items = append(d.Rebuilt.Items, line)
		default:
			d.Lines = append(d.Lines, line)
		}
	}
}

// files returns the items without a version by name.
func files(items []Item) map[string][]string {
	all := make(map[string][]string)
	for _, item := range items {
		name := itemName(item.Path)
		service := strings.HasPrefix(name, "shepherd-") && (strings.HasSuffix(name, ".scm") || strings.HasSuffix(name, ".go"))
		if _, version := splitVersion(name); version != "" || service {
			continue
		}
		all[name] = append(all[name], item.Path)
	}
	return all
}

// digests returns those of items, in order; of what cannot be read its name.
func digests(items []string) []string {
	var all []string
	for _, item := range items {
		digest, err := digestOf(item)
		if err != nil {
			digest = item
		}
		all = append(all, digest)
	}
	slices.Sort(all)
	return all
}

var itemHash = regexp.MustCompile(`/gnu/store/[0-9a-z]{32}-`)

// digestOf returns a digest of an item that is the same for another one which differs only in the hashes
// of those it refers to.
func digestOf(item string) (string, error) {
	sum, left := sha256.New(), int64(64<<20)
	err := filepath.WalkDir(item, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		var text []byte
		switch {
		case e.Type() == fs.ModeSymlink:
			var to string
			to, err = os.Readlink(name)
			text = []byte(to)
		case e.Type().IsRegular():
			if left -= info.Size(); left < 0 {
				return errors.New("too large to be compared")
			}
			text, err = os.ReadFile(name)
		}
		if err != nil {
			return err
		}
		text = itemHash.ReplaceAll(text, nil)
		fmt.Fprintf(sum, "%q %v %d\n", strings.TrimPrefix(name, item), info.Mode(), len(text))
		_, err = sum.Write(text)
		return err
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}
