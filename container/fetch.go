package container

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// A Fetch is a service that gets its code from elsewhere when it starts: what runs is then
// what is there at that moment, and neither what was built nor what was tested, and
// going back to an older generation does not bring the old code back.
type Fetch struct {
	Service string // as its file has it
	File    string // of the store, in which it is done
	Text    string // that does it
}

// fetching are the texts of programs, in Scheme or for a shell, that get code and run it.
// They are looked for in the programs of services only, where building and installing have no place.
var fetching = []*regexp.Regexp{
	program("git", "clone", "pull", "fetch", "submodule"),
	program("hg", "clone", "pull"),
	program("svn", "checkout", "update"),
	program("guix", "pull", "package", "install", "shell", "environment", "time-machine"),
	regexp.MustCompile(`(?:^|[\s"'/;&|$])guix["']?[\s"']+build["'\s]`), // and not the module (guix build utils)
	program("pip3?", "install"),
	program("npm|yarn|pnpm", "install", "ci"),
	program("gem|cargo|cpanm|luarocks|R", "install"),
	program("go", "install", "get", "run"),
	regexp.MustCompile(`\b(?:curl|wget)\b[^\n|;]*\|\s*(?:/\S+/)?(?:ba|da|z)?sh\b`),
	regexp.MustCompile(`\((?:git-fetch|git-fetch-with-fallback|url-fetch)\s`),
}

// program matches one with one of the words after it, options and their values in between:
// git -C /srv/code pull, or "…/bin/git" "-C" "/srv/code" "pull".
func program(name string, words ...string) *regexp.Regexp {
	const end, sep = `["']?`, `[\s"']+`
	return regexp.MustCompile(`(?:^|[\s"'/(;&|$` + "`" + `])(?:` + name + `)` + end + `(?:\s+["']?-[^\s"']*` + end + `(?:\s+["']?[^-\s"'][^\s"']*` + end + `)?)*?` +
		sep + `(?:` + strings.Join(words, "|") + `)(?:[\s"';)&|]|$)`)
}

// fetches looks at the programs of the services in a closure.
func fetches(items []Item) []Fetch {
	known := make(map[string]bool)
	for _, item := range items {
		known[item.Path] = true
	}
	var found []Fetch
	for _, item := range items {
		if service, ok := serviceOf(item); ok {
			found = append(found, fetchesOf(service, item.Path, known)...)
		}
	}
	return found
}

// serviceOf returns the name of the shepherd service whose file an item is.
func serviceOf(item Item) (string, bool) {
	service, ok := strings.CutPrefix(itemName(item.Path), "shepherd-")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(service, ".scm")
}

// mostScript is the size in bytes above which a file is no script.
const mostScript = 1 << 20

var itemPath = regexp.MustCompile(`/gnu/store/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+`)

// fetchesOf reads a service's file and the scripts of the store that it speaks of, and those
// that these speak of. Packages, which are directories, are not looked into: what they can do
// they need not do.
func fetchesOf(service, file string, known map[string]bool) []Fetch {
	var found []Fetch
	seen := map[string]bool{file: true}
	for todo := []string{file}; len(todo) > 0; todo = todo[1:] {
		text, ok := readScript(todo[0])
		if !ok {
			continue
		}
		if what := fetchIn(text); what != "" {
			found = append(found, Fetch{service, todo[0], what})
		}
		for _, next := range itemPath.FindAllString(text, -1) {
			if known[next] && !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
	}
	return found
}

// readScript returns the text of a small regular file without null characters.
func readScript(name string) (string, bool) {
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > mostScript {
		return "", false
	}
	text, err := os.ReadFile(name)
	return string(text), err == nil && !slices.Contains(text, 0)
}

// fetchIn returns the first text of a program that gets code; empty for none.
func fetchIn(text string) string {
	for _, pattern := range fetching {
		if what := pattern.FindString(text); what != "" {
			words := strings.FieldsFunc(what, func(r rune) bool { return strings.ContainsRune("\"'();&|$`/ \t\n", r) })
			return strings.Join(words, " ")
		}
	}
	return ""
}

// checkFetches refuses services that fetch code and may not.
func (s *System) checkFetches(allowed []string) error {
	for _, f := range s.Fetches {
		if !slices.Contains(allowed, f.Service) {
			return fmt.Errorf("service %s fetches code when it starts (%s in %s): what runs would be neither what was built nor what was tested; build it from a pinned input, or list the service in may-fetch",
				f.Service, f.Text, f.File)
		}
	}
	return nil
}
