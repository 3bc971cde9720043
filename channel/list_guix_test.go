package channel_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/channel/channeltest"
	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// loadChannels is a program for "guix repl" that loads channel files as "guix
// pull" does and writes, for each, the forms in which Guix keeps channels.
const loadChannels = `
(use-modules (guix channels) (guix ui) (guix openpgp) (guix base16) (ice-9 match) (srfi srfi-1))
(define (introduction i)
  (and i (list ((@@ (guix channels) channel-introduction-first-signed-commit) i)
               (bytevector->base16-string
                ((@@ (guix channels) channel-introduction-first-commit-signer) i)))))
(for-each
 (lambda (file)
   (let ((channels (load* file (make-user-module '((guix channels))))))
     (write (map (lambda (c)
                   (list (channel-name c) (channel-url c) (channel-branch c)
                         (channel-commit c) (introduction (channel-introduction c))))
                 channels))
     (newline)))
 (cdr (command-line)))
`

// guixReads returns the channels that Guix finds in each of the files.
func guixReads(t *testing.T, texts []string) (lists []channel.List) {
	t.Helper()
	for _, v := range askGuix(t, loadChannels, texts) {
		lists = append(lists, channelsOf(t, v))
	}
	return lists
}

func channelsOf(t *testing.T, v sexp.Value) channel.List {
	t.Helper()
	items, _ := sexp.Items(v)
	list := channel.List{}
	for _, item := range items {
		fields, _ := sexp.Items(item)
		text := func(i int) string { s, _ := sexp.Text(fields[i]); return s }
		c := channel.Channel{Name: text(0), URL: text(1), Branch: text(2), Commit: channel.Commit(text(3))}
		if intro, ok := sexp.Items(fields[4]); ok {
			id, _ := sexp.Text(intro[0])
			digits, _ := sexp.Text(intro[1])
			signer, err := channel.ParseFingerprint(digits)
			if err != nil {
				t.Fatal(err)
			}
			c.Introduction = &channel.Introduction{Commit: channel.Commit(id), Signer: signer}
		}
		list = append(list, c)
	}
	return list
}

// TestGuixReadsTheSame has Guix read the files of TestReadList, and what we write
// for the channels in them.
func TestGuixReadsTheSame(t *testing.T) {
	guixtest.Require(t)
	var texts []string
	for _, test := range listTests {
		var b bytes.Buffer
		if _, err := test.want.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, test.text, b.String())
	}
	for i, got := range guixReads(t, texts) {
		if diff := cmp.Diff(listTests[i/2].want, got); diff != "" {
			t.Errorf("%s: Guix reads\n%s\nas something else:\n%s", listTests[i/2].name, texts[i], diff)
		}
	}
}

// TestGuixReadsTheLock checks a Lock, with comments in it, in the same way.
func TestGuixReadsTheLock(t *testing.T) {
	guixtest.Require(t)
	guix, guixIntro := newRepo(t, nil)
	low, lowIntro := newRepo(t, nil)
	middle, intro := newRepo(t, map[string]string{
		".guix-channel": channeltest.Metadata("modules", low.Channel("low", lowIntro)),
	})
	lock := resolve(t, newResolver(t), channel.List{guix.Channel("guix", guixIntro), middle.Channel("middle", intro)})
	var b bytes.Buffer
	if _, err := lock.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lock.List(), guixReads(t, []string{b.String()})[0]); diff != "" {
		t.Errorf("%s\n%s", &b, diff)
	}
}

// TestReadsWhatGuixDescribes puts the canonical form of channels where "guix pull"
// keeps it, in the manifest of a profile, and reads what "guix describe" prints for it.
func TestReadsWhatGuixDescribes(t *testing.T) {
	guixtest.Require(t)
	guix := channel.DefaultGuix()
	guix.Commit = "230aa373f315f247852ee07dff34146e9b480aec"
	want := channel.List{guix, {Name: "x", URL: "file:///x", Branch: "devel", Commit: introduced.Commit}}
	profile := t.TempDir()
	manifest := manifestOf(t, want).String()
	if err := os.WriteFile(filepath.Join(profile, "manifest"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	manifestList, err := channel.ReadManifest("manifest", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, manifestList); diff != "" {
		t.Errorf("manifest: %s", diff)
	}
	for _, format := range []channel.Format{channel.FormatJSON, channel.FormatChannels, channel.FormatSansIntroduction, channel.FormatRecutils} {
		var stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "guix", "describe", "--profile="+profile, "--format="+string(format))
		cmd.Stderr = &stderr
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, &stderr)
		}
		got, err := channel.ReadDescription("describe", bytes.NewReader(out))
		if err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		if format == channel.FormatSansIntroduction { // which the official channel gets back later
			got[0].Introduction = want[0].Introduction
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", out, diff)
		}
		if format != channel.FormatJSON && format != channel.FormatRecutils {
			continue
		}
		var ours bytes.Buffer
		if err := want.WriteFormat(&ours, format); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.TrimSpace(string(out)), strings.TrimSpace(ours.String())); diff != "" {
			t.Errorf("in format %s we write otherwise (-Guix +we):\n%s", format, diff)
		}
	}
}

// TestGuixReadsPinned has Guix read what Pin makes of the files of TestPinInPlace.
func TestGuixReadsPinned(t *testing.T) {
	guixtest.Require(t)
	var texts []string
	for _, test := range pinTests {
		texts = append(texts, test.want)
	}
	for i, got := range guixReads(t, texts) {
		want, err := channel.ReadList("x", strings.NewReader(texts[i]))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" || len(got) != 3 || !got.Pinned() {
			t.Errorf("%s\n%s", texts[i], diff)
		}
	}
}

// TestEvaluate has a Guix of its own find the channels of programs.
func TestEvaluate(t *testing.T) {
	guixtest.Require(t)
	dir := t.TempDir()
	read := func(e channel.Evaluator, text string) (channel.List, error) {
		name := filepath.Join(dir, "channels.scm")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return e.Read(t.Context(), name)
	}
	got, err := read(channel.Evaluator{}, `(use-modules (srfi srfi-1))
(display "noise")
(define here "master")
(map (lambda (c) (if (eq? 'guix (channel-name c)) (channel (inherit c) (commit "abc")) c))
     (cons (channel (name 'x) (url "u") (branch here) `+somewhere+`) %default-channels))`)
	if err != nil {
		t.Fatal(err)
	}
	guix := channel.DefaultGuix()
	guix.Commit = "abc"
	want := channel.List{{Name: "x", URL: "u", Branch: "master", Introduction: introduced}, guix}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, test := range []struct {
		text, want string
		evaluator  channel.Evaluator
	}{
		{`(map car 1)`, "exit status", channel.Evaluator{}},
		{`(values 42)`, "not a list of channels", channel.Evaluator{}},
		{`(let loop () (loop))`, "longer than 2s", channel.Evaluator{Timeout: 2 * time.Second}},
		{`(let loop ((l '())) (loop (cons (make-string 100000000 #\a) l)))`, "", channel.Evaluator{Memory: 1 << 30}},
	} {
		_, err := read(test.evaluator, test.text)
		var failed *channel.EvaluationError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v", test.text, err)
		}
		t.Log(err)
	}
}

// manifestOf returns the manifest of the profile that these channels are pulled into.
func manifestOf(t *testing.T, list channel.List) sexp.Value {
	t.Helper()
	lock := &channel.Lock{}
	for _, c := range list {
		lock.Channels = append(lock.Channels, channel.LockedChannel{Channel: c})
	}
	v, err := sexp.Parse(string(lock.Canonical()))
	if err != nil {
		t.Fatal(err)
	}
	repositories, _ := sexp.Tagged(v, "lock")
	entries := sexp.L()
	for i, source := range repositories[1:] {
		c := list[i]
		entries.Items = append([]sexp.Value{sexp.L(
			sexp.String(c.Name), sexp.String(c.Commit.Short()), sexp.String("out"),
			sexp.String("/gnu/store/"+strings.Repeat("0", 32)+"-"+c.Name),
			sexp.L(sexp.Symbol("properties"), sexp.L(sexp.L(sexp.Symbol("source"), source))),
		)}, entries.Items...)
	}
	return sexp.L(sexp.Symbol("manifest"), sexp.L(sexp.Symbol("version"), sexp.Int(4)),
		sexp.L(sexp.Symbol("packages"), entries))
}

// refuseChannels is a program for "guix repl" that loads channel files in a module like that of
// "guix pull" and writes, for each, whether it comes to a list of channels.
const refuseChannels = `
(use-modules (guix channels) (guix ui) (ice-9 match))
(for-each
 (lambda (file)
   (write (with-exception-handler
              (const 'refused)
            (lambda ()
              (match (save-module-excursion
                      (lambda ()
                        (set-current-module (make-user-module '((guix channels))))
                        (primitive-load file)))
                (((? channel?) ...) 'channels)
                (_ 'refused)))
            #:unwind? #t))
   (newline))
 (cdr (command-line)))
`

// TestGuixRefusesTheSame has Guix load the files of TestReadListErrors. What we call a mistake
// must be one for Guix, at once or when it uses the channel; what we call a program need not.
func TestGuixRefusesTheSame(t *testing.T) {
	guixtest.Require(t)
	// Guix takes any object for these fields, and dies of it when it fetches or authenticates.
	later := []string{"must be a symbol", "commit of an introduction", "hexadecimal digits instead of 40"}
	var texts []string
	for _, test := range listErrors {
		texts = append(texts, test.text)
	}
	programs := 0
	for i, verdict := range askGuix(t, refuseChannels, texts) {
		_, err := channel.ReadList("f", strings.NewReader(texts[i]))
		var program *channel.NotDataError
		if errors.As(err, &program) {
			programs++
			continue
		}
		dies := slices.ContainsFunc(later, func(why string) bool { return strings.Contains(err.Error(), why) })
		if refused := verdict.String() == "refused"; refused == dies {
			t.Errorf("%.80q: we said %v, Guix: %v", texts[i], err, verdict)
		}
	}
	if programs == len(texts) {
		t.Error("nothing was compared")
	}
}

// readMetadata is a program for "guix repl" that reads .guix-channel files.
const readMetadata = `
(use-modules (guix channels) (guix openpgp) (guix base16) (ice-9 match))
(define-syntax-rule (field name metadata)
  ((@@ (guix channels) name) metadata))
(define (introduction i)
  (and i (list ((@@ (guix channels) channel-introduction-first-signed-commit) i)
               (bytevector->base16-string
                ((@@ (guix channels) channel-introduction-first-commit-signer) i)))))
(define (dependency c)
  (and c (list (channel-name c) (channel-url c) (channel-branch c) (channel-commit c)
               (introduction (channel-introduction c)))))
(for-each
 (lambda (file)
   (write (with-exception-handler
              (const 'refused)
            (lambda ()
              (let ((m (call-with-input-file file (@@ (guix channels) read-channel-metadata))))
                (list (field channel-metadata-directory m) (field channel-metadata-url m)
                      (field channel-metadata-news-file m) (field channel-metadata-keyring-reference m)
                      (map dependency (field channel-metadata-dependencies m)))))
            #:unwind? #t))
   (newline))
 (cdr (command-line)))
`

// TestGuixReadsTheSameMetadata has Guix read the files of TestReadMetadata.
func TestGuixReadsTheSameMetadata(t *testing.T) {
	guixtest.Require(t)
	var texts []string
	for _, test := range metadataTests {
		texts = append(texts, test.text)
	}
	for i, answer := range askGuix(t, readMetadata, texts) {
		test := metadataTests[i]
		fields, _ := sexp.Items(answer)
		if test.want == nil {
			// Of a dependency without name or url Guix makes #f, and dies of that later.
			dies := strings.Contains(test.err, "lacks a") || strings.Contains(test.err, "3:3: 12 is not a dependency")
			if refused := answer.String() == "refused"; refused == dies {
				t.Errorf("%s: we refuse it, Guix: %v", test.text, answer)
			}
			continue
		}
		if len(fields) != 5 {
			t.Errorf("%s: Guix: %v", test.text, answer)
			continue
		}
		text := func(i int) string { s, _ := sexp.Text(fields[i]); return s }
		got := &channel.Metadata{Directory: text(0), URL: text(1), NewsFile: text(2), KeyringReference: text(3)}
		if dependencies := channelsOf(t, fields[4]); len(dependencies) > 0 {
			got.Dependencies = dependencies
		}
		if diff := cmp.Diff(got, test.want); diff != "" {
			t.Errorf("%s: (-Guix +we) %s", test.text, diff)
		}
	}
}

// askGuix has Guix run a program on files of these texts, and returns what it wrote for each.
func askGuix(t *testing.T, program string, texts []string) (answers []sexp.Value) {
	t.Helper()
	dir := t.TempDir()
	args := []string{"repl", "--", filepath.Join(dir, "program.scm")}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(args[2], program)
	for i, text := range texts {
		args = append(args, filepath.Join(dir, fmt.Sprintf("%d.scm", i)))
		write(args[len(args)-1], text)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "guix", args...)
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CACHE_HOME="+dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	in := sexp.NewReader(bytes.NewReader(out))
	for range texts {
		v, err := in.Next()
		if err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		answers = append(answers, v)
	}
	return answers
}
