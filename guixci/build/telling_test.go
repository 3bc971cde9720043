package build

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func tell(text string) []string {
	var t telling
	t.write([]byte(text))
	t.end()
	return t.lines()
}

func TestTellingLines(t *testing.T) {
	var log strings.Builder
	log.WriteString("configure: checking for error.h... yes\nx.c:7: error: unknown type\n")
	for i := range 1000 {
		fmt.Fprintf(&log, "CC file%d.o\n", i)
	}
	log.WriteString("0 errors\nmake: *** [all] Error 2")
	got := tell(log.String())
	if got[0] != "x.c:7: error: unknown type" {
		t.Errorf("first telling line is %q", got[0])
	}
	if got[len(got)-1] != "make: *** [all] Error 2" || len(got) != 1+lastLines {
		t.Errorf("%d lines, the last is %q", len(got), got[len(got)-1])
	}
}

func TestTellingLinesAreBounded(t *testing.T) {
	got := tell(strings.Repeat(strings.Repeat("error ", 10_000)+"\n", 1000))
	if len(got) != lastLines+tellingLines {
		t.Errorf("%d lines", len(got))
	}
	for _, line := range got {
		if len(line) > lineLength {
			t.Fatalf("line of %d bytes", len(line))
		}
	}
}

func TestTellingLinesCanBeShown(t *testing.T) {
	for in, want := range map[string]string{
		"\x1b[31merror:\x1b[0m red\x07\n":   "error: red",
		"10%\r50%\r100% done\r\n":           "100% done",
		"\x1b]0;title\x07text \n":           "text",
		"bad \xff byte\n":                   "bad \uFFFD byte",
		"\n\n\n":                            "",
		strings.Repeat("é", lineLength):     strings.Repeat("é", lineLength/2),
		strings.Repeat("é", lineLength)[1:]: "\uFFFD" + strings.Repeat("é", lineLength/2-1) + "\uFFFD",
	} {
		if got := strings.Join(tell(in), "|"); got != want {
			t.Errorf("%q is told as %q, want %q", in, got, want)
		}
	}
}

func TestSpeaksOfError(t *testing.T) {
	for _, line := range []string{"error: x", "FAIL: test failed", "ERROR: In procedure", "make: *** [x] Error 1",
		"ld: undefined reference to `f'", "Traceback (most recent call last):", "guix: Unbound variable: foo"} {
		if !speaksOfError(line) {
			t.Errorf("%q is not recognised", line)
		}
	}
	for _, line := range []string{"# FAIL:  0, errors: 0", "0 failures", "gcc -Werror -c x.c", "checking for perror... yes", "installing errors.h"} {
		if speaksOfError(line) {
			t.Errorf("%q is taken for an error", line)
		}
	}
}

// However the log is cut, the lines are the same.
func FuzzTelling(f *testing.F) {
	f.Add("one\ntwo error\r\nthree", 3)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		var pieces telling
		for rest := text; rest != ""; {
			n := min(len(rest), 1+max(0, cut)%7)
			pieces.write([]byte(rest[:n]))
			rest = rest[n:]
		}
		pieces.end()
		if got, want := pieces.lines(), tell(text); !slices.Equal(got, want) {
			t.Errorf("%q in pieces is %q, at once %q", text, got, want)
		}
	})
}
