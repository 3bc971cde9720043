package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/guixci/store/storetest"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// TestReadme publishes, exports and fetches with the commands that the README tells people to type.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/readme.txtar")
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("--user=guix-publish", "--user=nobody", "--port=8080", "--port=$PORT", "/var/cache/publish", "$CACHE",
		"/srv/substitutes", "$STATIC", "/run/current-system", "$SYSTEM")
	commands := 0
	for line := range strings.Lines(string(readme)) {
		line, _, _ = strings.Cut(strings.TrimSuffix(line, "\n"), " > ")
		if line, ok := strings.CutPrefix(line, "    ./"+program+" "); ok {
			commands++
			if want := "\nexec " + program + " " + here.Replace(line); !strings.Contains(string(script), want+"\n") && !strings.Contains(string(script), want+" &") {
				t.Errorf("the script does not have %q", want)
			}
		}
	}
	if commands != 3 {
		t.Errorf("the README has %d commands", commands)
	}
	if guixtest.Require(t); !guixtest.InBox() {
		t.Skip("needs the box, where a second guix-daemon does no harm")
	}
	others, socket := t.TempDir(), filepath.Join(t.TempDir(), "socket")
	ownDaemon(t, socket, "GUIX_CONFIGURATION_DIRECTORY="+others, "XDG_CACHE_HOME="+t.TempDir())
	var tb testing.TB
	testscript.Run(t, testscript.Params{Files: []string{"testdata/readme.txtar"}, Setup: func(e *testscript.Env) error {
		tb = e.T().(testing.TB)
		leaf, item, err := pair(tb)
		if err != nil {
			return err
		}
		cache, static := filepath.Join(e.WorkDir, "cache"), filepath.Join(e.WorkDir, "static")
		for _, dir := range []string{filepath.Dir(e.WorkDir), e.WorkDir} { // for nobody
			if err := os.Chmod(dir, 0o755); err != nil {
				return err
			}
		}
		web := httptest.NewServer(http.FileServer(http.Dir(static)))
		e.Defer(web.Close)
		// guix-daemon takes what it finds in environments for in use: no whole names of items.
		for name, value := range map[string]string{
			"PATH": os.Getenv("PATH"), "HOME": e.WorkDir, "GUIX_CONFIGURATION_DIRECTORY": filepath.Join(e.WorkDir, "etc"),
			"OURS": filepath.Join(e.WorkDir, "etc"), "OTHERS": others, "DAEMON": socket, "USUAL": "/var/guix/daemon-socket/socket", "PORT": strconv.Itoa(guixtest.FreePort(tb)),
			"ITEM": item.Base(), "HASH": item.Hash(), "LEAF": leaf.Base(), "HASH_LEAF": leaf.Hash(),
			"CACHE": cache, "STATIC": static, "SYSTEM": filepath.Join(e.WorkDir, "system"), "WEB": web.URL,
		} {
			e.Setenv(name, value)
		}
		return nil
	}, Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"answers": answers,
		// "keeps DIRECTORY N" waits for so many items.
		"keeps": func(ts *testscript.TestScript, _ bool, args []string) {
			n, err := strconv.Atoi(args[1])
			ts.Check(err)
			awaitItems(tb, args[0], n, context.Background())
		},
		// "deletes ITEM…" deletes items from the store as soon as nobody holds them.
		"deletes": func(_ *testscript.TestScript, _ bool, args []string) {
			var pool store.Pool
			defer pool.Close()
			var items []store.StorePath
			for _, item := range args {
				items = append(items, store.StorePath(item))
			}
			storetest.Remove(tb, &pool, items...)
		},
	}})
}

// pair adds an item to the store, and another that refers to it. Nothing keeps them there.
func pair(t testing.TB) (leaf, item store.StorePath, err error) {
	c, err := store.Dial(t.Context(), "")
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if leaf, err = c.AddText(t.Context(), "guixci-readme-leaf", []byte("what the other one needs"), nil); err != nil {
		return "", "", err
	}
	item, err = c.AddText(t.Context(), "guixci-readme", []byte(leaf), []store.StorePath{leaf})
	return leaf, item, err
}

// answers waits until a server that has just been started has an address.
func answers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: answers URL")
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for late := time.Now().Add(3 * time.Minute); ; <-look.C {
		res, err := http.Get(args[0])
		if err == nil {
			if res.Body.Close(); res.StatusCode == http.StatusOK {
				return
			}
			ts.Fatalf("status %d", res.StatusCode)
		}
		if time.Now().After(late) {
			ts.Fatalf("no answer: %v", err)
		}
	}
}
