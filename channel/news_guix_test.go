package channel_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// askForNews is a program for "guix repl" that writes what (guix channels) finds new
// between the commits that follow the URL, two by two.
const askForNews = `
(use-modules (guix channels) (ice-9 match))
(match (cdr (command-line))
  ((url commits ...)
   (let ((c (channel (name 'news) (url url) (branch "master"))))
     (let loop ((commits commits))
       (match commits
         (() #t)
         ((old new rest ...)
          (write (map (lambda (entry)
                        (list (channel-news-entry-commit entry) (or (channel-news-entry-tag entry) "")
                              (channel-news-entry-title entry) (channel-news-entry-body entry)))
                      (channel-news-for-commit c new old)))
          (newline)
          (loop rest)))))))
`

// runRepl runs a program in "guix repl", with a home of its own, and returns what it writes.
func runRepl(t *testing.T, program string, args ...string) []sexp.Value {
	t.Helper()
	home := t.TempDir()
	file := filepath.Join(home, "program.scm")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "guix", append([]string{"repl", "--", file}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var values []sexp.Value
	for r := sexp.NewReader(bytes.NewReader(out)); ; {
		v, err := r.Next()
		if errors.Is(err, io.EOF) {
			return values
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		values = append(values, v)
	}
}

// TestGuixFindsTheSameNews compares News with (guix channels), between every two of some
// commits: entries by commit and by tag, in several languages, some about what is not there.
func TestGuixFindsTheSameNews(t *testing.T) {
	guixtest.Require(t)
	repo, intro := newRepo(t, map[string]string{".guix-channel": "(channel (version 0) (news-file \"etc/news.txt\"))\n"})
	commits := []channel.Commit{intro.Commit}
	commit := func(files map[string]string) channel.Commit {
		t.Helper()
		c, err := repo.Commit("master", "Change.", files, alice)
		if err != nil {
			t.Fatal(err)
		}
		commits = append(commits, c)
		return c
	}
	first, second := commit(map[string]string{"a": "1"}), commit(map[string]string{"a": "2"})
	if err := repo.Tag("v2", second, "Release."); err != nil {
		t.Fatal(err)
	}
	news := func(entries ...string) map[string]string {
		return map[string]string{"etc/news.txt": "(channel-news (version 0)\n" + strings.Join(entries, "\n") + ")\n"}
	}
	one := fmt.Sprintf(`(entry (commit %q) (title (en "One @code{a}") (fr "Une")) (body (en "It is \"one\".")))`, first)
	two := `(entry (tag "v2") (title (en "Two") (de "Zwei ä")) (body (en "Tagged.") (de "Markiert.")))`
	commit(news(two, one))
	commit(news(one, two))
	commit(news(two, `(entry (tag "v9") (title (en "Nine")) (body (en "Not there.")))`, one))
	commit(news(two, `(entry (commit "00112233445566778899aabbccddeeff00112233") (title (en "X")) (body (en "Not there.")))`, one))
	commit(map[string]string{"etc/news.txt": "(channel-news (version 7) (entry))\n"})
	args := []string{repo.URL()}
	for _, from := range commits {
		for _, to := range commits {
			args = append(args, string(from), string(to))
		}
	}
	mirror, err := (&channel.Repositories{Dir: t.TempDir()}).Open(t.Context(), repo.URL())
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for i, want := range runRepl(t, askForNews, args...) {
		from, to := channel.Commit(args[2*i+1]), channel.Commit(args[2*i+2])
		got, err := mirror.News(t.Context(), from, to)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(newsOf(t, want), got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("from commit %d to %d: %s", i/len(commits), i%len(commits), diff)
		}
		found += len(got)
	}
	if found == 0 {
		t.Error("no news at all were compared")
	}
}

func newsOf(t *testing.T, v sexp.Value) (all []channel.NewsEntry) {
	t.Helper()
	items, _ := sexp.Items(v)
	for _, item := range items {
		fields, _ := sexp.Items(item)
		if len(fields) != 4 {
			t.Fatalf("%v is no entry", item)
		}
		commit, _ := sexp.Text(fields[0])
		tag, _ := sexp.Text(fields[1])
		all = append(all, channel.NewsEntry{Commit: channel.Commit(commit), Tag: tag,
			Title: texts(t, fields[2]), Body: texts(t, fields[3])})
	}
	return all
}

// texts reads (("en" . "text") …).
func texts(t *testing.T, v sexp.Value) map[string]string {
	t.Helper()
	all := map[string]string{}
	items, _ := sexp.Items(v)
	for _, item := range items {
		pair, ok := item.(*sexp.List)
		if !ok || len(pair.Items) != 1 || pair.Tail == nil {
			t.Fatalf("%v is no (language . text)", item)
		}
		language, _ := sexp.Text(pair.Items[0])
		all[language], _ = sexp.Text(pair.Tail)
	}
	return all
}

// writeProvenance is a program for "guix repl" that writes what (gnu services) puts in the file
// provenance of a system made from the channels of a file.
const writeProvenance = `
(use-modules (guix channels) (guix ui) (gnu services))
(let ((channels (load* (cadr (command-line)) (make-user-module '((guix channels))))))
  (write (list 'provenance '(version 0)
               (cons 'channels (map (@@ (gnu services) channel->sexp) channels))
               '(configuration-file #f))))
`

// TestReadsTheProvenanceGuixWrites has (gnu services) describe channels.
func TestReadsTheProvenanceGuixWrites(t *testing.T) {
	guixtest.Require(t)
	guix := channel.DefaultGuix()
	guix.Commit = "230aa373f315f247852ee07dff34146e9b480aec"
	want := channel.List{guix, {Name: "x", URL: "file:///x \"y\"", Branch: "devel", Commit: introduced.Commit}}
	file := filepath.Join(t.TempDir(), "channels.scm")
	var b bytes.Buffer
	if _, err := want.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	written := runRepl(t, writeProvenance, file)
	if len(written) != 1 {
		t.Fatalf("Guix wrote %v", written)
	}
	got, err := channel.ReadProvenance("provenance", []byte(written[0].String()))
	if err != nil {
		t.Fatal(err)
	}
	want[0].Introduction = nil // (gnu services) leaves it out
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("of\n%s\n%s", written[0], diff)
	}
}
