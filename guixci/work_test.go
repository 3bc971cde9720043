package guixci

import (
	"testing"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/sexp"
)

func TestUnlowered(t *testing.T) {
	exception := func(key, message, file string) *inferior.Exception {
		e := &inferior.Exception{Key: key, Args: []sexp.Value{sexp.Bool(false), sexp.String(message), sexp.L()}}
		if file != "" {
			e.Stack = []inferior.Frame{{File: "ice-9/boot-9.scm", Line: 1}, {File: file, Line: 7}}
		}
		return e
	}
	at := inferior.Location{File: "mine/packages.scm", Line: 3}
	for _, c := range []struct {
		job  inferior.Job
		want string
	}{
		{inferior.Job{Location: at, Err: exception("misc-error", "no", "guix/packages.scm")}, "mine/packages.scm:3: misc-error: no"},
		{inferior.Job{Location: at, Err: exception("misc-error", "no", "mine/utils.scm")}, "mine/utils.scm:7: misc-error: no"},
		{inferior.Job{Location: at, Err: exception("misc-error", "no", "")}, "mine/packages.scm:3: misc-error: no"},
		{inferior.Job{Err: exception("quit", "hello: unknown package", "")}, "hello: unknown package"},
	} {
		if got := unlowered(c.job); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
