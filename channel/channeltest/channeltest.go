// Package channeltest makes throw-away channels: git repositories with signed
// histories, real introductions and keyrings, so that nothing has to be run with
// authentication switched off. They are written without git or gpg, and are the same
// whenever they are made; real Guix clones, authenticates and pulls them.
//
//	alice := channeltest.NewKey("alice")
//	repo, intro, err := channeltest.New(dir, alice, map[string]string{"a.scm": "…"})
//	commit, err := repo.Commit("master", "Add b.", map[string]string{"b.scm": "…"}, alice)
//	list := channel.List{repo.Channel("sample", intro)}
//
// Errors are returned, so that programs can make sample channels with it too. With
// [CommitOptions] and [Signature] it also makes what no honest tool would: forged,
// misattributed and malformed commits.
package channeltest

import (
	"fmt"
	"strings"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/inferior/sexp"
)

// New makes a repository whose first commit on master authorizes the key, signed by
// it and so fit to be the introduction, and whose keyring branch has the key.
func New(dir string, key *Key, files map[string]string) (*Repo, *channel.Introduction, error) {
	r, err := Init(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("make repository: %w", err)
	}
	if err := r.Keyring("keyring", key); err != nil {
		return nil, nil, fmt.Errorf("make keyring: %w", err)
	}
	first := map[string]string{".guix-authorizations": Authorizations(key)}
	for name, content := range files {
		first[name] = content
	}
	c, err := r.Commit("master", "Begin.", first, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make introduction: %w", err)
	}
	return r, &channel.Introduction{Commit: c, Signer: key.Fingerprint()}, nil
}

// Keyring adds the public keys to a branch, each as NAME.key.
func (r *Repo) Keyring(branch string, keys ...*Key) error {
	files := map[string]string{}
	for _, k := range keys {
		text, err := k.ArmoredPublic()
		if err != nil {
			return err
		}
		files[strings.ReplaceAll(k.Name, " ", "-")+".key"] = text
	}
	_, err := r.Commit(branch, "Add keys.", files, nil)
	return err
}

// Authorizations returns the content of a .guix-authorizations file.
func Authorizations(keys ...*Key) string {
	list := sexp.L()
	for _, k := range keys {
		list.Items = append(list.Items, sexp.L(
			sexp.String(k.Fingerprint().String()), sexp.L(sexp.Symbol("name"), sexp.String(k.Name))))
	}
	return sexp.L(sexp.Symbol("authorizations"),
		sexp.L(sexp.Symbol("version"), sexp.Int(0)), list).String() + "\n"
}

// Metadata returns the content of a .guix-channel file. An empty directory
// leaves the modules at the top of the repository.
func Metadata(directory string, dependencies ...channel.Channel) string {
	m := sexp.L(sexp.Symbol("channel"), sexp.L(sexp.Symbol("version"), sexp.Int(0)))
	if directory != "" {
		m.Items = append(m.Items, sexp.L(sexp.Symbol("directory"), sexp.String(directory)))
	}
	if len(dependencies) > 0 {
		list := sexp.L(sexp.Symbol("dependencies"))
		for _, c := range dependencies {
			list.Items = append(list.Items, dependency(c))
		}
		m.Items = append(m.Items, list)
	}
	return m.String() + "\n"
}

func dependency(c channel.Channel) sexp.Value {
	d := sexp.L(sexp.Symbol("channel"), sexp.L(sexp.Symbol("name"), sexp.Symbol(c.Name)),
		sexp.L(sexp.Symbol("url"), sexp.String(c.URL)))
	add := func(key sexp.Symbol, v sexp.Value) { d.Items = append(d.Items, sexp.L(key, v)) }
	if c.Branch != "" {
		add("branch", sexp.String(c.Branch))
	}
	if c.Commit != "" {
		add("commit", sexp.String(c.Commit))
	}
	if i := c.Introduction; i != nil {
		add("introduction", sexp.L(sexp.Symbol("channel-introduction"),
			sexp.L(sexp.Symbol("version"), sexp.Int(0)),
			sexp.L(sexp.Symbol("commit"), sexp.String(i.Commit)),
			sexp.L(sexp.Symbol("signer"), sexp.String(i.Signer.String()))))
	}
	return d
}
