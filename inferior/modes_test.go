package inferior_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/inferior"
)

func TestAddBuild(t *testing.T) {
	var o inferior.EvaluateOptions
	for _, build := range []string{"all", "hello", "(channels guix mine)", `(packages "hello" "guile@3.0")`,
		`(manifests "etc/m.scm")`, "(custom (my jobs) (other jobs))"} {
		if err := o.AddBuild(expr(t, build)); err != nil {
			t.Errorf("%s: %v", build, err)
		}
	}
	want := inferior.EvaluateOptions{Modes: []inferior.Mode{inferior.ModeAll, inferior.ModeHello}, Channels: []string{"guix", "mine"},
		Packages: []string{"hello", "guile@3.0"}, Manifests: []string{"etc/m.scm"}, Modules: []string{"(my jobs)", "(other jobs)"}}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, build := range []string{"linux", `"all"`, "()", "(all)", "(linux 1)"} {
		if err := o.AddBuild(expr(t, build)); err == nil || !strings.Contains(err.Error(), "none of Cuirass's") {
			t.Errorf("%s: %v", build, err)
		}
	}
}

// What cannot be asked for is an error before any process is started.
func TestEvaluateRefuses(t *testing.T) {
	for want, o := range map[string]inferior.EvaluateOptions{
		`unknown build mode "linux"`:                               {Modes: []inferior.Mode{"linux"}},
		`build mode "images" needs the checkout of channel "guix"`: {Modes: []inferior.Mode{inferior.ModeImages}},
		`module "jobs" is not a name such as (my jobs)`:            {Modules: []string{"jobs"}},
	} {
		o.Session.Program = "/no/such/guix"
		for job, err := range inferior.Evaluate(t.Context(), o) {
			if err == nil || err.Error() != "evaluate packages: "+want {
				t.Errorf("%+v, %v, want %s", job, err, want)
			}
		}
	}
}
