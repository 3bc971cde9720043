package substitute

import (
	"bytes"
	"strings"
	"testing"
)

func TestParseSexpForms(t *testing.T) {
	want := list(symbol("a"), list(symbol("b"), atom([]byte("xyz\x00"))), atom([]byte{})).canonical()
	if want != "(1:a(1:b4:xyz\x00)0:)" {
		t.Fatalf("canonical form %q", want)
	}
	for _, text := range []string{
		"(1:a(1:b4:xyz\x00)0:)",
		`(a (b "xyz\000") "")`,
		"(a(b #78797A00#)##)",
		"( a\n ( b # 78 79\n7a 00 # ) \"\"\t)\n",
		"(a (b |eHl6AA==|) ||)",
		`("a" (#62# "x\
yz\x00") 0"")`,
		"(\"a\" (#62# \"x\\\r\nyz\\x00\") 0:)",
		`(1"a" (1#62# 4|eHl6AA==|) "")`,
	} {
		x, err := parseSexp([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := x.canonical(); got != want {
			t.Errorf("%q: parsed as %q", text, got)
		}
	}
}

func TestParseSexpEscapes(t *testing.T) {
	x, err := parseSexp([]byte(`(a "\b\t\v\n\f\r\"\'\\\101\x42é")`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(x.list[1].atom), "\b\t\v\n\f\r\"'\\ABé"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseSexpErrors(t *testing.T) {
	for _, text := range []string{
		"", " ", "abc", "(", ")", "(a", "(a))", "(a)(b)", "(a) b", "((a)",
		`("a`, `("\`, `("\x4")`, `("\xg0")`, `("\8")`, `("\x+1")`, `("\400")`, `("\q")`,
		"(#1#)", "(#1g#)", "(#12)", "(|a|)", "(|YQ==)",
		"(3:ab)", "(3:", "(3)", "(3abc)", "(99999999999:a)", "(01:a)", `(2"a")`, "(3#6162#)",
		"(&)", "([hint]a)", "(a,b)", "(\x00)", "(\xff)",
		strings.Repeat("(", 100) + strings.Repeat(")", 100),
		"(#" + strings.Repeat("00", maxAtom+1) + "#)",
		"(65536:" + strings.Repeat("x", 65536) + ")",
	} {
		if x, err := parseSexp([]byte(text)); err == nil {
			t.Errorf("%.40q: parsed as %.40q", text, x.canonical())
		}
	}
}

func TestAdvancedAtoms(t *testing.T) {
	for in, want := range map[string]string{
		"rfc6979":        "rfc6979",
		"NIST P-256":     `"NIST P-256"`,
		"1a":             `"1a"`,
		"-./_:*+=":       "-./_:*+=",
		"":               `""`,
		"\x01":           "#01#",
		"a\x00b":         "#610062#",
		"\x80a":          "#8061#",
		"a\x80":          "#6180#",
		"a\xa0":          "#61A0#",
		"a\xa1\xff":      "\"a\xa1\xff\"",
		"a\x7f":          "#617F#",
		"\b\t\v\n\f\r":   `"\b\t\v\n\f\r"`,
		"it's a \"\\x\"": `"it\'s a \"\\x\""`,
	} {
		if got := string(appendAtom(nil, []byte(in))); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestAdvancedLayout(t *testing.T) {
	x := list(symbol("a"), list(symbol("b"), symbol("c")), symbol("d"), list(list(symbol("e"))), list())
	want := "(a \n (b c)\n d \n (\n  (e)\n  )\n ()\n )\n"
	if got := string(x.advanced()); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func FuzzSexp(f *testing.F) {
	for _, name := range []string{"ed25519/acl", "rsa2048/signing-key.sec", "nistp256/signing-key.pub"} {
		f.Add(readFile(f, name))
	}
	for _, v := range vectors(f, "ed25519") {
		f.Add(v.text)
	}
	f.Add([]byte(`("\x00\012\
"|YQ==|3:abc())`))
	f.Fuzz(func(t *testing.T, text []byte) {
		x, err := parseSexp(text)
		if err != nil {
			return
		}
		for _, form := range [][]byte{x.advanced(), []byte(x.canonical())} {
			again, err := parseSexp(form)
			if err != nil {
				t.Fatalf("%q: printed as %q: %v", text, form, err)
			}
			if again.canonical() != x.canonical() {
				t.Errorf("%q: printed as %q, which is another expression", text, form)
			}
		}
		if again, _ := parseSexp(x.advanced()); !bytes.Equal(again.advanced(), x.advanced()) {
			t.Errorf("%q: printing is not stable", text)
		}
	})
}

// Keys and lists of any text are parsed or refused, never worse.
func FuzzKeys(f *testing.F) {
	for dir := range keyKinds {
		f.Add(readFile(f, dir+"/signing-key.sec"))
		f.Add(readFile(f, dir+"/signing-key.pub"))
		f.Add(readFile(f, dir+"/acl"))
		f.Add(vectors(f, dir)[0].text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if key, err := ParsePrivateKey(text); err == nil {
			sig, err := key.Sign(Hash{1})
			if err != nil {
				t.Fatal(err)
			}
			if err := sig.Verify(); err != nil {
				t.Error(err)
			}
		}
		if key, err := ParsePublicKey(text); err == nil {
			if again, err := ParsePublicKey([]byte(key.String())); err != nil || !again.Equal(key) {
				t.Errorf("key printed as %q: %v", key, err)
			}
		}
		if acl, err := ParseACL(text); err == nil {
			if again, err := ParseACL([]byte(acl.String())); err != nil || again.String() != acl.String() {
				t.Errorf("list printed as %q: %v", acl, err)
			}
		}
		if sig, err := ParseSignature(text); err == nil {
			if again, err := ParseSignature(sig.Bytes()); err != nil || (again.Verify() == nil) != (sig.Verify() == nil) {
				t.Errorf("signature printed as %q: %v", sig.Bytes(), err)
			}
		}
	})
}
