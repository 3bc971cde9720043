package channel_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// latestInstances is a program for "guix repl" that has Guix fetch, authenticate and
// merge the channels of a file, and writes their names and commits.
const latestInstances = `
(use-modules (guix channels) (guix store) (guix ui))
(let* ((channels (load* (cadr (command-line)) (make-user-module '((guix channels)))))
       (instances (with-store store (latest-channel-instances store channels))))
  (write (map (lambda (i)
                (list (channel-name (channel-instance-channel i)) (channel-instance-commit i)))
              instances)))
`

// TestGuixMergesTheSame has Guix resolve the lists whose locks the other tests
// check: cloning our repositories, authenticating, and in the same order.
func TestGuixMergesTheSame(t *testing.T) {
	guixtest.Require(t)
	guix, guixIntro := newRepo(t, map[string]string{"build-aux/build-self.scm": ";; looked at before it is patched\n"})
	low, lowIntro := newRepo(t, nil)
	second := commit(t, low, "master", map[string]string{"f": "1"})
	if err := low.SetBranch("devel", lowIntro.Commit); err != nil {
		t.Fatal(err)
	}
	devel := commit(t, low, "devel", map[string]string{"f": "2"})
	if err := low.Tag("v1", lowIntro.Commit, "Version 1."); err != nil {
		t.Fatal(err)
	}
	at := func(branch string, c channel.Commit) channel.Channel {
		l := low.Channel("low", lowIntro)
		l.Branch, l.Commit = branch, c
		return l
	}
	depending := func(name string, on ...channel.Channel) channel.Channel {
		r, intro := newRepo(t, map[string]string{".guix-channel": channeltest.Metadata("", on...)})
		return r.Channel(name, intro)
	}
	base := guix.Channel("guix", guixIntro)
	toFirst, toSecond := depending("a", at("", lowIntro.Commit)), depending("b", at("", second))
	toHead, deep := depending("c", at("master", "")), depending("d", depending("e", at("devel", "")))
	for name, list := range map[string]channel.List{
		"dependency":         {toHead, base},
		"transitive":         {deep, base},
		"pin replaces head":  {toHead, toFirst, base, toSecond},
		"own pin stays":      {at("", second), toFirst, base},
		"own head gives way": {at("master", ""), base, toSecond, toFirst},
		"two heads":          {at("devel", ""), toHead, base},
		"tag":                {at("", "v1"), base},
		"abbreviated":        {at("", devel[:10]), base},
		"reference":          {at("refs/heads/devel", ""), base},
	} {
		t.Run(name, func(t *testing.T) {
			lock := resolve(t, newResolver(t), list)
			var ours [][2]string
			for _, c := range lock.Channels {
				ours = append(ours, [2]string{c.Name, string(c.Commit)})
			}
			if diff := cmp.Diff(guixMerges(t, list), ours); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func guixMerges(t *testing.T, list channel.List) (instances [][2]string) {
	t.Helper()
	dir := t.TempDir()
	var b, stderr bytes.Buffer
	if _, err := list.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	script, file := filepath.Join(dir, "script.scm"), filepath.Join(dir, "channels.scm")
	for name, text := range map[string]string{script: latestInstances, file: b.String()} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "guix", "repl", "--", script, file)
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CACHE_HOME="+dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	v, err := sexp.Parse(string(out))
	if err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	items, _ := sexp.Items(v)
	for _, item := range items {
		fields, _ := sexp.Items(item)
		name, _ := sexp.Text(fields[0])
		id, _ := sexp.Text(fields[1])
		instances = append(instances, [2]string{name, id})
	}
	return instances
}
