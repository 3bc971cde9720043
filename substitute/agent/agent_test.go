package agent_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/agent"
	"github.com/genenetwork/guixci/substitute/nar"
	"github.com/genenetwork/guixci/substitute/substitutetest"
)

// newAgent returns an agent whose only cache has what m has.
func newAgent(t testing.TB, m *substitutetest.Memory) *agent.Agent {
	t.Helper()
	key := substitute.GenerateKey()
	server := httptest.NewServer(&substitute.Handler{Source: m, Key: key})
	t.Cleanup(server.Close)
	return &agent.Agent{Client: &substitute.Client{URLs: []string{server.URL}, ACL: substitute.NewACL(key.Public())}}
}

func TestQuery(t *testing.T) {
	var m substitutetest.Memory
	leaf := m.AddFile("leaf", "1")
	top := m.AddFile("top", "2", leaf.StorePath)
	absent := substitutetest.Path("absent", "")
	a := newAgent(t, &m)
	var out bytes.Buffer
	in := fmt.Sprintf("have %s %s nonsense %s\ninfo %s\nhave %s\n", leaf.StorePath, absent, top.StorePath, top.StorePath, absent)
	if err := a.Query(t.Context(), strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s\n%s\n\n%s\n\n1\n%s\n0\n%d\n\n\n", leaf.StorePath, top.StorePath, top.StorePath, leaf.StorePath, top.NarSize)
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("replies (-want +got):\n%s", diff)
	}
}

// guix-daemon kills who answers its queries when it needs no more of them: what accumulates is removed before that.
func TestQueryPrunes(t *testing.T) {
	a := newAgent(t, new(substitutetest.Memory))
	a.Client.Dir = t.TempDir()
	old := filepath.Join(a.Client.Dir, "ahead", ".12345")
	if err := errors.Join(os.Mkdir(filepath.Dir(old), 0o755), os.WriteFile(old, nil, 0o600), os.Chtimes(old, time.Time{}, time.Unix(0, 0))); err != nil {
		t.Fatal(err)
	}
	in, questions := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- a.Query(t.Context(), in, io.Discard) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		if _, err := os.Stat(old); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is still there")
		}
	}
	questions.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSubstitute(t *testing.T) {
	var m substitutetest.Memory
	small, big := m.AddFile("small", "1"), m.AddFile("big", strings.Repeat("x", 10_000))
	twin := m.Add(substitutetest.Path("twin", ""), substitutetest.FileNAR(strings.Repeat("x", 10_000)), "")
	absent := substitutetest.Path("absent", "")
	a := newAgent(t, &m)
	dir := t.TempDir()
	a.Links = filepath.Join(dir, ".links")
	a.Options = agent.ParseOptions("deduplicate=yes\nprint-extended-build-trace=1\n")
	var trace, out bytes.Buffer
	a.Trace = &trace
	var in strings.Builder
	for _, item := range []substitute.StorePath{small.StorePath, absent, big.StorePath, twin.StorePath, small.StorePath} {
		fmt.Fprintf(&in, "substitute %s %s\n", item, filepath.Join(dir, item.Base()))
	}
	if err := a.Substitute(t.Context(), strings.NewReader(in.String()), &out); err != nil {
		t.Fatal(err)
	}
	success := func(i *substitute.Info) string { return fmt.Sprintf("success %s %d\n", i.NarHash, i.NarSize) }
	want := success(small) + "not-found\n" + success(big) + success(twin) + success(small)
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("replies (-want +got):\n%s\n%s", diff, &trace)
	}
	one, _ := os.Stat(filepath.Join(dir, big.StorePath.Base()))
	two, err := os.Stat(filepath.Join(dir, twin.StorePath.Base()))
	if err != nil || !os.SameFile(one, two) {
		t.Errorf("equal files are not one: %v", err)
	}
	for _, word := range []string{"@ download-started ", "@ download-succeeded "} {
		if n := strings.Count(trace.String(), word); n != 4 {
			t.Errorf("%d times %q, want 4:\n%s", n, word, &trace)
		}
	}
	var b bytes.Buffer
	if err := nar.Dump(&b, filepath.Join(dir, big.StorePath.Base())); err != nil || sha256.Sum256(b.Bytes()) != big.NarHash {
		t.Errorf("what was made has another archive, %v", err)
	}
}

// What the daemon has asked about is fetched while it is busy with something else: the archives of all small
// items are asked for although the daemon waits with its second request. What was fetched for nothing, because it is
// there already or too large, does no harm, and a file full of rubbish neither.
func TestAhead(t *testing.T) {
	var m substitutetest.Memory
	var items []*substitute.Info
	for i := range 6 {
		items = append(items, m.AddFile("item", strings.Repeat(fmt.Sprint(i), 100_000)))
	}
	items = append(items, m.AddFile("large", strings.Repeat("x", 5<<20)))
	key := substitute.GenerateKey()
	h := &substitute.Handler{Source: &m, Key: key}
	asked := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			asked <- filepath.Base(r.URL.Path)
		}
		h.ServeHTTP(w, r)
	}))
	defer server.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "ahead", "file")
	newAgent := func() *agent.Agent {
		client := &substitute.Client{URLs: []string{server.URL}, ACL: substitute.NewACL(key.Public())}
		return &agent.Agent{Client: client, Ahead: file, Options: agent.ParseOptions("print-extended-build-trace=1\n")}
	}
	// The Agent that answers queries runs until the end.
	questions, ask := io.Pipe()
	answers, answer := io.Pipe()
	queried := make(chan error, 1)
	go func() { queried <- newAgent().Query(t.Context(), questions, answer) }()
	lines := bufio.NewReader(answers)
	for _, i := range items {
		fmt.Fprintf(ask, "info %s\n", i.StorePath)
		for range 6 { // path, deriver, number of references, two sizes, end
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	}
	rubbish, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(rubbish, "\n\x00../..\n/gnu/store/x\n%s\nhalf a li", substitutetest.Path("absent", ""))
	rubbish.Close()

	requests, request := io.Pipe()
	replies, reply := io.Pipe()
	var trace bytes.Buffer
	fetching := newAgent()
	fetching.Trace = &trace
	ended := make(chan error, 1)
	go func() { ended <- fetching.Substitute(t.Context(), requests, reply) }()
	in := bufio.NewReader(replies)
	seen := map[string]int{}
	for n, i := range items {
		fmt.Fprintf(request, "substitute %s %s\n", i.StorePath, filepath.Join(dir, i.StorePath.Base()))
		got, err := in.ReadString('\n')
		if want := fmt.Sprintf("success %s %d\n", i.NarHash, i.NarSize); err != nil || got != want {
			t.Fatalf("%s: reply %q, %v; want %q\n%s", i.StorePath, got, err, want, &trace)
		}
		var b bytes.Buffer
		if err := nar.Dump(&b, filepath.Join(dir, i.StorePath.Base())); err != nil || sha256.Sum256(b.Bytes()) != i.NarHash {
			t.Errorf("what was made has another archive, %v", err)
		}
		if n == 0 { // and no other request has come
			for len(seen) < 3 {
				seen[<-asked]++
			}
			if seen[items[1].StorePath.Base()] != 1 || seen[items[2].StorePath.Base()] != 1 {
				t.Errorf("asked for %v", seen)
			}
		}
	}
	request.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	ask.Close()
	if err := <-queried; err != nil {
		t.Error(err)
	}
	close(asked)
	for name := range asked {
		seen[name]++
	}
	for _, i := range items {
		if n := seen[i.StorePath.Base()]; n != 1 {
			t.Errorf("asked %d times for %s", n, i.StorePath)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is still there")
	}
	for _, word := range []string{"@ download-started ", "@ download-succeeded "} {
		if n := strings.Count(trace.String(), word); n != len(items) {
			t.Errorf("%d times %q, want %d:\n%s", n, word, len(items), &trace)
		}
	}
}

// Whatever is asked, replies are those of the protocol, and only what the cache has is there.
func FuzzRequests(f *testing.F) {
	for _, s := range []string{"have /gnu/store/x\n", "info a b\n", "substitute a b\n", "substitute a\n", "\n", "have", "x y\n",
		"have ITEM ITEM x\ninfo ITEM\n", "info TWIN\n", "substitute ITEM x\nsubstitute TWIN x\nsubstitute ITEM y\n", "substitute ITEM x z\n"} {
		f.Add(s)
	}
	var m substitutetest.Memory
	item, twin := m.AddFile("item", "1"), m.AddFile("twin", "2")
	a := newAgent(f, &m)
	fetched := fmt.Sprintf("success %s %d\n", item.NarHash, item.NarSize)
	fetchedTwin := fmt.Sprintf("success %s %d\n", twin.NarHash, twin.NarSize)
	names := strings.NewReplacer("ITEM", string(item.StorePath), "TWIN", string(twin.StorePath))
	// A destination is a name in the current directory.
	here := strings.NewReplacer("/", "", ".", "")
	first := strings.NewReplacer("substitute ITEM ", "substitute "+string(item.StorePath)+" ", "substitute TWIN ", "substitute "+string(twin.StorePath)+" ")
	f.Fuzz(func(t *testing.T, in string) {
		var out bytes.Buffer
		if err := a.Query(t.Context(), strings.NewReader(names.Replace(in)), &out); err == nil && !strings.HasSuffix("\n"+out.String(), "\n") {
			t.Errorf("query %q: reply %q", in, &out)
		}
		t.Chdir(t.TempDir())
		out.Reset()
		a.Substitute(t.Context(), strings.NewReader(first.Replace(here.Replace(in))), &out)
		successes := 0
		for line := range strings.Lines(out.String()) {
			switch line {
			case fetched, fetchedTwin:
				successes++
			case "not-found\n":
			default:
				t.Errorf("request %q: reply %q", in, line)
			}
		}
		there, err := os.ReadDir(".")
		if err != nil || len(there) > successes || len(there) == 0 && successes > 0 {
			t.Errorf("request %q: %d successes, %d files, %v", in, successes, len(there), err)
		}
		for _, file := range there {
			if text, err := os.ReadFile(file.Name()); err != nil || string(text) != "1" && string(text) != "2" {
				t.Errorf("request %q: %q is %q, %v", in, file.Name(), text, err)
			}
		}
	})
}
