// Package samples makes the repositories that guixci is shown and tested on.
//
//	set, err := samples.Make(dir, "")
//	set.Channels().WriteTo(f) // a channels.scm for "guix pull -C", authenticated throughout
//	commit, err := set.Break()
//
// They are three channels. One is called guix, and pulls in seconds, because it is
// the Guix that runs it over again; everything else about it is as Guix wants it. Sample-channel has one package
// of each kind that a continuous integration has to cope with. Sample-project is
// a program whose repository is a channel, the "Level 2" of the Guix
// Cookbook's "Continuous integration" of a project: it holds the package of
// itself, and the system container that runs it.
//
// All commits are signed with throw-away keys and the channels have introductions,
// so nothing needs authentication switched off.
package samples

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
)

// The names of the channels.
const (
	Guix    = "guix"
	Channel = "sample-channel"
	Project = "sample-project"
)

// Container is the file of sample-project that declares the system container.
const Container = "deploy/container.scm"

// Services are those the container's Shepherd should run, beside Guix's own.
var Services = []string{"keeper", "web"}

//go:embed all:files
var files embed.FS

// A Set is the three repositories.
type Set struct {
	Dir string
	// Alice may sign commits of all three; Mallory is authorized nowhere.
	Alice, Mallory *channeltest.Key

	repos  map[string]*channeltest.Repo
	intros map[string]*channel.Introduction
}

// Make writes the repositories below dir, which must be empty or not exist.
// The salt becomes part of every package of sample-channel: with another salt
// the same packages have other derivations, so that they are built again;
// with the same salt the commits are the same, too.
func Make(dir, salt string) (*Set, error) {
	s := &Set{
		Dir: dir, Alice: channeltest.NewKey("alice"), Mallory: channeltest.NewKey("mallory"),
		repos: map[string]*channeltest.Repo{}, intros: map[string]*channel.Introduction{},
	}
	if err := s.add(Guix, nil); err != nil {
		return nil, err
	}
	saltModule := "(define-module (sample salt)\n  #:export (%salt))\n\n(define %salt " + fmt.Sprintf("%q", salt) + ")\n"
	if err := s.add(Channel, map[string]string{
		"sample/salt.scm": saltModule,
		".guix-channel":   channeltest.Metadata(""),
	}); err != nil {
		return nil, err
	}
	uses := s.channel(Channel)
	if err := s.add(Project, map[string]string{
		".guix-channel": channeltest.Metadata(".guix/modules", uses),
	}); err != nil {
		return nil, err
	}
	return s, nil
}

// add makes the repository of a name from the embedded files and some more.
func (s *Set) add(name string, more map[string]string) error {
	content := map[string]string{}
	root := "files/" + name
	err := fs.WalkDir(files, root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(path)
		content[strings.TrimPrefix(path, root+"/")] = string(text)
		return err
	})
	if err != nil {
		return fmt.Errorf("make sample %s: %w", name, err)
	}
	for path, text := range more {
		content[path] = text
	}
	repo, intro, err := channeltest.New(filepath.Join(s.Dir, name+".git"), s.Alice, content)
	if err == nil {
		// Having one's key on the keyring is not being authorized.
		err = repo.Keyring("keyring", s.Mallory)
	}
	if err != nil {
		return fmt.Errorf("make sample %s: %w", name, err)
	}
	s.repos[name], s.intros[name] = repo, intro
	return nil
}

func (s *Set) channel(name string) channel.Channel {
	return s.repos[name].Channel(name, s.intros[name])
}

// Repo returns the repository of a channel.
func (s *Set) Repo(name string) *channeltest.Repo { return s.repos[name] }

// Channels returns the list a user would write: guix and sample-project, unpinned.
// Sample-channel comes in because sample-project depends on it.
func (s *Set) Channels() channel.List {
	return channel.List{s.channel(Guix), s.channel(Project)}
}

// WriteChannels writes the list as a channels.scm file.
func (s *Set) WriteChannels(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write sample channels: %w", err)
	}
	_, err = s.Channels().WriteTo(f)
	return errors.Join(err, f.Close())
}

// edit commits a change to one file of a repository, made by replacing text in it.
// Text that is not there is a mistake of the caller's.
func (s *Set) edit(name, branch, message, path string, key *channeltest.Key, oldnew ...string) (channel.Commit, error) {
	text, err := s.text(name, path)
	if err != nil {
		return "", err
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			return "", fmt.Errorf("change sample %s: %s has no %q", name, path, oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	return s.repos[name].Commit(branch, message, map[string]string{path: text}, key)
}

// text returns a file as it was embedded; every change starts from that.
func (s *Set) text(name, path string) (string, error) {
	text, err := files.ReadFile("files/" + name + "/" + path)
	if err != nil {
		return "", fmt.Errorf("read sample: %v", err)
	}
	return string(text), nil
}
