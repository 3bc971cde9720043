package container

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// sampleVariants are the systems of testdata/sample-system.scm that tests run: what they greet with, if not
// with their name, their mode, and whether they have a network of their own.
var sampleVariants = []struct {
	name, mode, greeting string
	private              bool
}{
	{name: "one", mode: "works"}, {name: "two", mode: "works"}, {name: "three", mode: "works"}, {name: "fails", mode: "fails"}, {name: "dies", mode: "dies"},
	{name: "told", mode: "told"}, {name: "told too", mode: "told"},
	{name: "fetches", mode: "fetches"}, {name: "keeper", mode: "keeper"}, {name: "keeper second", mode: "keeper-second"}, {name: "newcomer", mode: "newcomer"},
	{name: "elsewhere", mode: "elsewhere", greeting: "one"},                                                // in another time zone
	{name: "smaller", mode: "smaller", greeting: "one"}, {name: "larger", mode: "larger", greeting: "one"}, // of what there are two versions
	{name: "crashes", mode: "crashes"},
	{name: "own one", mode: "works", private: true}, {name: "own two", mode: "works", private: true}, {name: "own three", mode: "works", private: true}, {name: "own told", mode: "told", private: true},
	{name: "own told too", mode: "told", private: true},
}

// samples returns the run-container of each variant, by its name. Guix builds them
// once for all tests, with one start of itself.
func samples(t *testing.T) map[string]string {
	t.Helper()
	guixtest.Require(t)
	built, err := buildSamples()
	if err != nil {
		t.Fatal(err)
	}
	return built
}

var buildSamples = sync.OnceValues(func() (map[string]string, error) {
	args := []string{"build", "--load-path=testdata"}
	for _, v := range sampleVariants {
		args = append(args, "--expression="+sampleExpression(cmp.Or(v.greeting, v.name), v.mode, v.private).String())
	}
	built, err := guixBuild(args...)
	if err != nil || len(built) != len(sampleVariants) {
		return nil, fmt.Errorf("build %d samples, have %q: %v", len(sampleVariants), built, err)
	}
	scripts := make(map[string]string)
	for i, v := range sampleVariants {
		scripts[v.name] = built[i]
	}
	return scripts, nil
})

// guixBuild runs guix and returns the words that it prints.
func guixBuild(args ...string) ([]string, error) {
	home, err := os.MkdirTemp("", "guixci")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(home)
	var complaint bytes.Buffer
	cmd := exec.Command("guix", args...)
	cmd.Env = append(os.Environ(), "HOME="+home)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v\n%s", err, &complaint)
	}
	return strings.Fields(string(out)), nil
}

// sampleExpression is what "guix system container --network", or, if it is private, the same without --network, evaluates:
// (lambda () (container-script (sample-system #:greeting "one" #:mode 'works) #:shared-network? #t)).
// More arguments of container-script may follow.
func sampleExpression(greeting, mode string, private bool, more ...sexp.Value) sexp.Value {
	from := func(name sexp.Symbol, module ...sexp.Value) sexp.Value {
		return sexp.L(sexp.Symbol("@"), sexp.L(module...), name)
	}
	system := sexp.L(from("sample-system", sexp.Symbol("sample-system")),
		sexp.Keyword("greeting"), sexp.String(greeting), sexp.Keyword("mode"), sexp.Quote(sexp.Symbol(mode)))
	script := sexp.L(from("container-script", sexp.Symbol("gnu"), sexp.Symbol("system"), sexp.Symbol("linux-container")),
		system, sexp.Keyword("shared-network?"), sexp.Bool(!private))
	script.Items = append(script.Items, more...)
	return sexp.L(sexp.Symbol("lambda"), sexp.L(), script)
}

// freeAddress returns an address that nobody has, of a network that is nobody's but these tests'.
func freeAddress(t *testing.T) netip.Addr {
	t.Helper()
	var err error
	for range 100 {
		a := netip.AddrFrom4([4]byte{10, byte(200 + rand.IntN(50)), byte(rand.IntN(256)), byte(1 + rand.IntN(250))})
		if err = checkAddress(a); err == nil {
			return a
		}
	}
	t.Fatalf("no address is free: %v", err)
	return netip.Addr{}
}

// realDeployment returns a deployment of samples that serve HTTP on a port of their own and keep
// their state in the mount "state". It is stopped at the end of the test.
func realDeployment(t *testing.T) (d *Deployment, url string) {
	t.Helper()
	port := guixtest.FreePort(t)
	url = fmt.Sprintf("http://127.0.0.1:%d/", port)
	d = &Deployment{
		Name: fmt.Sprintf("sample-%d", port), Dir: t.TempDir(),
		Shares:      []Mount{{Name: "state", Source: t.TempDir(), Target: "/srv/state"}},
		Exposes:     boxMounts(),
		Environment: Environment{Settings: map[string]string{"PORT": fmt.Sprint(port)}},
		Probes:      Probes{AllServices{}, HTTP{URL: url}},
		Schedule:    Schedule{StartPeriod: plenty, Interval: 100 * time.Millisecond, Window: 200 * time.Millisecond},
		Logger:      slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	t.Cleanup(func() {
		tellState(t, d)
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d, url
}

// mustBring starts a script without asking the preflight: what would happen without it.
func mustBring(t *testing.T, d *Deployment, script string) *Instance {
	t.Helper()
	in, err := bringUnchecked(t, d, script)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// bringUnchecked is mustBring for what may fail.
func bringUnchecked(t *testing.T, d *Deployment, script string) (*Instance, error) {
	t.Helper()
	g := d.generation(Revision{Script: script})
	if err := errors.Join(d.prepare(), d.create(t.Context(), g)); err != nil {
		t.Fatal(err)
	}
	return d.bring(t.Context(), g)
}
