package build_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/guixci/build"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
)

// One daemon builds, a server of ours offers what it has, and the scheduler of another
// daemon fetches that, builds the rest, and builds what is offered but not delivered.
//
//	top ─ lib ─ tool        top ─ broken ─ tool2, which is not offered
func TestRealSubstitutes(t *testing.T) {
	guixtest.Require(t)
	there := storetest.StartDaemon(t, storetest.DaemonOptions{})
	theirs := storetest.New(t, there.Dial())
	family := func(kit *storetest.Kit) (top, lib, broken, tool2 *storetest.Build) {
		tool := kit.Add(storetest.Spec{Name: "tool", Script: "echo >$out"})
		tool2 = kit.Add(storetest.Spec{Name: "tool2", Script: "echo >$out"})
		data := kit.Add(storetest.Spec{Name: "data", Script: "echo data >$out"})
		lib = kit.Add(storetest.Spec{Name: "lib", Script: "ln -s $data $out; echo >$doc", Outputs: []string{"doc", "out"}, Inputs: []*storetest.Build{tool, data}})
		broken = kit.Add(storetest.Spec{Name: "broken", Script: "echo >$out", Inputs: []*storetest.Build{tool2}})
		top = kit.Add(storetest.Spec{Name: "top", Script: "cat $lib >/dev/null; echo >$out", Inputs: []*storetest.Build{lib, broken}})
		return top, lib, broken, tool2
	}
	_, lib, broken, tool2 := family(theirs)
	pool := there.Pool()
	if err := pool.Build(t.Context(), []store.StorePath{lib.Derivation, broken.Derivation}, store.BuildOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	key := substitute.GenerateKey()
	handler := &substitute.Handler{Source: pool, Key: key}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nar/") && strings.Contains(r.URL.Path, broken.Out().Hash()) {
			http.Error(w, "lost", http.StatusGone)
			return
		}
		if r.URL.Path == "/"+tool2.Out().Hash()+".narinfo" {
			http.NotFound(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()

	r, here := newOwn(t, storetest.DaemonOptions{ACL: []*substitute.PublicKey{key.Public()}})
	daemon := r.Store.(*build.Daemon)
	daemon.Options.SubstituteURLs = []string{server.URL}
	r.Substitutes, r.Slots = daemon, 1
	top, lib, broken, tool2 := family(theirs.For(r.client))
	for _, b := range []*storetest.Build{top, lib, broken, tool2} {
		r.names[b.Derivation] = b.Name
	}
	r.build(t, top)
	for name, fetched := range map[string]bool{"lib": true, "broken": false, "top": false} {
		if got := r.results[name]; got.Cause != build.Succeeded || got.Fetched != fetched {
			t.Errorf("%s: %+v, want fetched %v", name, got, fetched)
		}
	}
	built := here.Built()
	for name, want := range map[string]bool{"tool": false, "data": false, "lib": false, "tool2": true, "broken": true, "top": true} {
		if built[name] != want {
			t.Errorf("%s was built: %v, want %v", name, built[name], want)
		}
	}
	if link, err := os.Readlink(filepath.Join(here.Dir, lib.Out().Base())); err != nil || !strings.HasSuffix(link, "-data") {
		t.Errorf("lib refers to %q, %v", link, err)
	}
	if log := readLog(t, r.results["lib"].Log); !strings.Contains(log, server.URL) {
		t.Errorf("log of lib does not say where it comes from: %q", log)
	}
}
