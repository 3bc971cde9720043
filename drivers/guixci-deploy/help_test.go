package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/container"
)

// The help names every field that there is, and its example is one.
func TestFileHelp(t *testing.T) {
	var out, complaint bytes.Buffer
	if status := run(t.Context(), []string{"help", "deployment-file"}, &out, &complaint); status != 0 || complaint.Len() > 0 {
		t.Errorf("status %d: %s", status, &complaint)
	}
	text := out.String()
	if _, err := container.ReadFile("example", strings.NewReader(fileExample)); err != nil {
		t.Error(err)
	}
	if !strings.Contains(text, fileExample) {
		t.Error("the example is not there")
	}
	has := regexp.MustCompile(`(\S+) has no field "nonsense"; it has (.*)`)
	for _, form := range []string{
		`(nonsense)`, `(system (nonsense))`, `(environment "a" (nonsense))`, `(mount "a" (nonsense))`, `(secret "a" (nonsense))`,
		`(network (nonsense))`, `(schedule (nonsense))`, `(keep (nonsense))`, `(pre-switch "/a" (nonsense))`,
		`(side-by-side (nonsense))`, `(side-by-side (move-traffic "/a" (nonsense)))`, `(probes (nonsense))`,
		`(probes (all-services (nonsense)))`, `(probes (http "http://a/" (nonsense)))`, `(probes (tcp "a:1" (nonsense)))`,
		`(probes (tls "a:1" (nonsense)))`, `(probes (dns "a" (nonsense)))`,
	} {
		_, err := container.ReadFile("d.scm", strings.NewReader("(deployment "+form+")"))
		if err == nil {
			t.Errorf("%s is accepted", form)
			continue
		}
		found := has.FindStringSubmatch(err.Error())
		if found == nil { // an environment is read after all the rest
			_, err = container.ReadFile("d.scm", strings.NewReader(`(deployment (script "/a") `+form+`)`))
			if err != nil {
				found = has.FindStringSubmatch(err.Error())
			}
		}
		if found == nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		for field := range strings.SplitSeq(found[2], ", ") {
			if !strings.Contains(text, "("+field+" ") && !strings.Contains(text, "("+field+")") {
				t.Errorf("the help says nothing of %s in %s", field, found[1])
			}
		}
	}
}
