package samples

import "github.com/genenetwork/guixci/channel"

const (
	packagesFile = "sample/packages.scm"
	programFile  = "src/sample/greeting.scm"
)

// Forge adds a commit signed by somebody who is not authorized, on a side branch of
// sample-channel that it returns the name of.
func (s *Set) Forge() (branch string, _ channel.Commit, _ error) {
	branch = "forged"
	repo := s.repos[Channel]
	if head, ok := repo.Head("master"); ok {
		if err := repo.SetBranch(branch, head); err != nil {
			return "", "", err
		}
	}
	c, err := s.edit(Channel, branch, "Greet differently.", packagesFile, s.Mallory,
		"hello, world ", "greetings from mallory ")
	return branch, c, err
}

// Break pushes to sample-channel a commit after which "guix pull" fails: a package
// refers to a variable that no module has.
func (s *Set) Break() (channel.Commit, error) {
	return s.edit(Channel, "master", "Add sample-modern.", packagesFile, s.Alice,
		"(define-public sample-talker",
		"(define-public sample-modern\n  (sample \"sample-modern\" \"Package for a newer Guix\"\n          sample-builder-of-tomorrow))\n\n(define-public sample-talker")
}

// Repair pushes to sample-channel a commit that makes it right again and
// removes the packages that could not be built or lowered.
func (s *Set) Repair() (channel.Commit, error) {
	return s.edit(Channel, "master", "Fix the answer.", packagesFile, s.Alice,
		"the answer is 41, expected 42~%\")\n              (exit 1))))",
		"the answer is 42~%\")\n              (mkdir #$output))))",
		"(source (local-file \"answer.tar.gz\")))) ;nobody committed it", "(source #f)))")
}

// Upgrade pushes a new version of the program to sample-project.
func (s *Set) Upgrade(version string) (channel.Commit, error) {
	return s.edit(Project, "master", "Version "+version+".", programFile, s.Alice,
		`%version "1.0"`, `%version "`+version+`"`)
}

// BreakService pushes to sample-project a commit that builds, but whose web
// service does not come up.
func (s *Set) BreakService() (channel.Commit, error) {
	return s.edit(Project, "master", "Read the setting \"address\".", Container, s.Alice,
		"/etc/sample/port", "/etc/sample/address")
}
