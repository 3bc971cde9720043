package channel

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// ReadAuthorizations reads the first datum of a .guix-authorizations file and
// returns the fingerprints in it, in order. As in Guix, blanks in a fingerprint
// do not count but other punctuation is an error, and what follows the list of
// keys is ignored. A fingerprint of another length than 40 digits is left out,
// since no key can have it. The name is used in errors.
func ReadAuthorizations(name string, text []byte) ([]Fingerprint, error) {
	v, err := firstDatum(name, text)
	if err != nil {
		return nil, err
	}
	rest, ok := sexp.Tagged(v, "authorizations")
	if !ok || len(rest) < 2 {
		return nil, badAuthorizations(name, v, "(authorizations (version 0) (…)) is wanted")
	}
	if version, _ := sexp.Tagged(rest[0], "version"); len(version) != 1 || version[0] != sexp.Value(sexp.Int(0)) {
		return nil, badAuthorizations(name, v, "only (version 0) is known")
	}
	entries, ok := sexp.Items(rest[1])
	if !ok {
		return nil, badAuthorizations(name, v, "the keys must be a list")
	}
	keys := []Fingerprint{}
	for i, e := range entries {
		at := &sexp.List{Pos: writtenAt(rest[1].(*sexp.List), i)}
		items, _ := sexp.Items(e)
		if len(items) == 0 {
			return nil, badAuthorizations(name, at, fmt.Sprintf(`%.40s is not ("FINGERPRINT" …)`, e))
		}
		text, ok := items[0].(sexp.String)
		if !ok {
			return nil, badAuthorizations(name, at, fmt.Sprintf(`%.40s is not ("FINGERPRINT" …)`, e))
		}
		raw, err := hex.DecodeString(strings.Map(graphic, string(text)))
		if err != nil {
			return nil, badAuthorizations(name, at, fmt.Sprintf("%.60s is not a fingerprint", text))
		}
		if len(raw) == len(Fingerprint{}) {
			keys = append(keys, Fingerprint(raw))
		}
	}
	return keys, nil
}

// graphic drops what is not in Guile's char-set:graphic.
func graphic(c rune) rune {
	if unicode.In(c, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S) {
		return c
	}
	return -1
}

func badAuthorizations(name string, v sexp.Value, msg string) error {
	pos := sexp.Pos{Line: 1, Column: 1}
	if l, ok := v.(*sexp.List); ok {
		pos = l.Pos
	}
	return &sexp.SyntaxError{File: name, Pos: pos, Msg: "not a .guix-authorizations file: " + msg}
}
