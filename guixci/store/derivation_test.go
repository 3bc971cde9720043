package store

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sampleText = `Derive([("doc","` + item + `-doc","",""),("out","` + item + `","r:sha256","00ff")],` +
	`[("` + drvA + `",["doc","out"]),("` + drvB + `",["out"])],["` + item + `"],` +
	`"x86_64-linux","builtin:download",["-c","say \"hi\\n\"\n\t\r ü"],[("a",""),("out","` + item + `")])`

var sample = Derivation{
	Outputs: []Output{{"doc", item + "-doc", "", ""}, {"out", item, "r:sha256", "00ff"}},
	Inputs:  []Input{{drvA, []string{"doc", "out"}}, {drvB, []string{"out"}}},
	Sources: []StorePath{item},
	System:  "x86_64-linux",
	Builder: "builtin:download",
	Args:    []string{"-c", "say \"hi\\n\"\n\t\r ü"},
	Env:     []EnvVar{{"a", ""}, {"out", item}},
}

func TestParseDerivation(t *testing.T) {
	d, err := ParseDerivation([]byte(sampleText))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&sample, d); diff != "" {
		t.Errorf("derivation (-want +got):\n%s", diff)
	}
	if d.String() != sampleText {
		t.Errorf("prints as\n%s\nwant\n%s", d, sampleText)
	}
	if v, ok := d.Getenv("out"); v != item || !ok {
		t.Errorf("out is %q, %v", v, ok)
	}
	if _, ok := d.Getenv("no"); ok {
		t.Error("a variable that is not there is")
	}
	if d.Fixed() {
		t.Error("two outputs, and fixed")
	}
	if diff := cmp.Diff([]StorePath{drvA, drvB, item}, d.References()); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
}

func TestParseBadDerivation(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "unexpected end",
		sampleText[:len(sampleText)/2]:     "unexpected end",
		sampleText + "\n":                  "text after the end",
		"derive([],[],[],\"\",\"\",[],[])": `offset 0: want "Derive("`,
		`Derive([("out"]`:                  `offset 14: want ","`,
		`Derive([("o\x`:                    `unknown escape "\\x"`,
		"Derive([(\"o\nut":                 `offset 11: '\n' in a string is not escaped`,
		`Derive([`:                         "unexpected end",
		`Derive([("out","\`:                "unexpected end",
	} {
		_, err := ParseDerivation([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: error %v, want %q", text, err, want)
		}
	}
}

func FuzzParseDerivation(f *testing.F) {
	f.Add([]byte(sampleText))
	f.Add([]byte(`Derive([],[],[],"","",[],[])`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := ParseDerivation(text)
		if err == nil && d.String() != string(text) {
			t.Errorf("%q prints as %q", text, d)
		}
	})
}

func BenchmarkParseDerivation(b *testing.B) {
	text := []byte(sampleText)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseDerivation(text); err != nil {
			b.Fatal(err)
		}
	}
}
