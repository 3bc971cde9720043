package channel_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/inferior/sexp"
)

const somewhere = `(introduction (make-channel-introduction "0c119db2ea86a389769f4d2b9c6f5c41c027e336"
  (openpgp-fingerprint "3CE4 6455 8A84 FDC6 9DB4  0CFB 090B 1199 3D9A EBB5")))`

var introduced = &channel.Introduction{
	Commit: "0c119db2ea86a389769f4d2b9c6f5c41c027e336",
	Signer: channel.Fingerprint{
		0x3c, 0xe4, 0x64, 0x55, 0x8a, 0x84, 0xfd, 0xc6, 0x9d, 0xb4,
		0x0c, 0xfb, 0x09, 0x0b, 0x11, 0x99, 0x3d, 0x9a, 0xeb, 0xb5,
	},
}

// listTests are files that Guix reads to these channels; TestGuixReadsTheSame
// asks it.
var listTests = []struct {
	name, text string
	want       channel.List
}{
	{"default", `%default-channels`, channel.List{channel.DefaultGuix()}},
	{"list", `(list (channel (name 'x) (url "u")) %default-guix-channel)`,
		channel.List{{Name: "x", URL: "u", Branch: "master"}, channel.DefaultGuix()}},
	{"cons", `(cons (channel (name 'x) (url "u") (branch "b") (commit "c")) %default-channels)`,
		channel.List{{Name: "x", URL: "u", Branch: "b", Commit: "c"}, channel.DefaultGuix()}},
	{"cons*", `(cons* (channel (name 'x) (url "u")) (channel (name 'y) (url "v")) %default-channels)`,
		channel.List{{Name: "x", URL: "u", Branch: "master"}, {Name: "y", URL: "v", Branch: "master"}, channel.DefaultGuix()}},
	{"cons* of one", `(cons* %default-channels)`, channel.List{channel.DefaultGuix()}},
	{"append", `(append (list (channel (name 'x) (url "u"))) '() %default-channels)`,
		channel.List{{Name: "x", URL: "u", Branch: "master"}, channel.DefaultGuix()}},
	{"empty", `(list)`, channel.List{}},
	{"quoted empty", `'()`, channel.List{}},
	{"introduction", `(list (channel (name 'x) (url "u") ` + somewhere + `))`,
		channel.List{{Name: "x", URL: "u", Branch: "master", Introduction: introduced}}},
	{"inherit", `(list (channel (inherit %default-guix-channel) (commit "v1.4.0")))`,
		channel.List{{Name: "guix", URL: channel.DefaultGuix().URL, Branch: "master", Commit: "v1.4.0", Introduction: channel.DefaultGuix().Introduction}}},
	{"false is unset", `(list (channel (name 'x) (url "u") (commit #f) (introduction #f)))`,
		channel.List{{Name: "x", URL: "u", Branch: "master"}}},
	{"comments", ";; mine\n#| and\n yours |# (list #;(channel) ; none\n)", channel.List{}},
	{"modules", `(use-modules (guix channels) (guix ci)) (list)`, channel.List{}},
	{"the last value counts", `"x" (list (channel (name 'x) (url "u"))) (list)`, channel.List{}},
	{"odd characters", `(list (channel (name '#{a b}#) (url "u\"\\\n\x41;é☃")))`,
		channel.List{{Name: "a b", URL: "u\"\\\nA;é☃", Branch: "master"}}},
}

func TestReadList(t *testing.T) {
	for _, test := range listTests {
		t.Run(test.name, func(t *testing.T) {
			got, err := channel.ReadList("channels.scm", strings.NewReader(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// listErrors are files that have no list of channels, or none that can be known without running
// them; TestGuixRefusesTheSame has Guix read them.
var listErrors = []struct{ text, want string }{
	{"", "f:1:1: the file does not end in a list of channels"},
	{"(list", "f:1:6: unexpected end of text in the list that starts at 1:1"},
	{"(list\n (channel (name 'x)))", "f:2:2: channel x lacks a url"},
	{`(list (channel (url "u")))`, "f:1:7: the channel lacks a name"},
	{`(list (channel (name "x") (url "u")))`, "f:1:22: the name of a channel must be a symbol, such as 'guix"},
	{`(list (channel (name 'x) (name 'y)))`, "f:1:26: field name is given twice"},
	{`(list (channel (name 'x) (url "u") (comit "c")))`, `f:1:37: a channel has no field "comit"`},
	{`(channel (name 'x) (url "u"))`, "f:1:1: the file does not end in a list of channels"},
	{"\n\n  (map identity %default-channels)", "f:3:3: (map identity %default-channels) is not plain data: write the channels out"},
	{"(define x 1) (list)", "f:1:1: (define x 1) is not plain data"},
	{`(list (channel (name 'x) (url (getenv "URL"))))`, `f:1:31: (getenv "URL") is not plain data`},
	{`(list "x")`, `f:1:7: "x" is not a channel`},
	{`(list %default-channels)`, "f:1:7: a list of channels where one channel is wanted"},
	{`(cons %default-guix-channel %default-guix-channel)`, "f:1:29: a channel where a list of channels is wanted"},
	{`(list (channel (name 'x) (url "u") (introduction (make-channel-introduction "abc" (openpgp-fingerprint "00")))))`,
		"f:1:77: the commit of an introduction must be"},
	{`(list (channel (name 'x) (url "u") (introduction (make-channel-introduction "0c119db2ea86a389769f4d2b9c6f5c41c027e336" (openpgp-fingerprint "00")))))`,
		`f:1:141: parse fingerprint "00": 2 hexadecimal digits instead of 40`},
	{strings.Repeat("(", 5000), "f:1:101: nested deeper than 100"},
	{"(list \xff)", "f:1:7: not UTF-8 text"},
	{"\x7fELF\x02\x01\x01", "is not plain data"},
}

func TestReadListErrors(t *testing.T) {
	for _, test := range listErrors {
		_, err := channel.ReadList("f", strings.NewReader(test.text))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.60q: error %v, want %q in it", test.text, err, test.want)
		}
		var syntax *sexp.SyntaxError
		var notData *channel.NotDataError
		if !errors.As(err, &syntax) && !errors.As(err, &notData) {
			t.Errorf("%.60q: error of type %T", test.text, err)
		}
	}
}

func FuzzReadList(f *testing.F) {
	for _, test := range listTests {
		f.Add(test.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := channel.ReadList("f", strings.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if _, err := list.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		again, err := channel.ReadList("g", &b)
		if err != nil {
			t.Fatalf("%v in what %q was written as", err, text)
		}
		for i := range list { // an unset branch is written as the default
			if list[i].Branch == "" {
				list[i].Branch = "master"
			}
		}
		if diff := cmp.Diff(list, again); diff != "" {
			t.Error(diff)
		}
	})
}

func TestListJSON(t *testing.T) {
	const text = `[{"name":"guix","url":"https://git.guix.gnu.org/guix.git","branch":"master",` +
		`"commit":"230aa373f315f247852ee07dff34146e9b480aec","introduction":{` +
		`"commit":"9edb3f66fd807b096b48283debdcddccfea34bad",` +
		`"signer":"BBB0 2DDF 2CEA F6A8 0D1D  E643 A2A0 6DF2 A33A 54FA"}}]`
	var list channel.List
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	want := channel.DefaultGuix()
	want.Commit = "230aa373f315f247852ee07dff34146e9b480aec"
	if diff := cmp.Diff(channel.List{want}, list); diff != "" {
		t.Error(diff)
	}
	if got, err := json.Marshal(list); err != nil || string(got) != text {
		t.Errorf("written as\n%s, %v, want\n%s", got, err, text)
	}
}

// metadataTests are .guix-channel files; TestGuixReadsTheSameMetadata has Guix read them.
var metadataTests = []struct {
	text string
	want *channel.Metadata
	err  string
}{
	{"(channel (version 0))", channel.DefaultMetadata(), ""},
	{`(channel (version 0) (directory "a") (url "u") (news-file "n") (keyring-reference "k") (future #t) 12)`,
		&channel.Metadata{Directory: "/a", URL: "u", NewsFile: "n", KeyringReference: "k"}, ""},
	{`(channel (version 0) (directory "/b") (directory "c"))`,
		&channel.Metadata{Directory: "/b", KeyringReference: "keyring"}, ""},
	{`(channel (version 0) (dependencies
	   (channel (name x) (url "u"))
	   (channel (name y) (url "v") (branch "b") (commit "c") (introduction (channel-introduction
	     (version 0) (commit "0c119db2ea86a389769f4d2b9c6f5c41c027e336")
	     (signer "3CE4 6455 8A84 FDC6 9DB4  0CFB 090B 1199 3D9A EBB5") (more))))))`,
		&channel.Metadata{Directory: "/", KeyringReference: "keyring", Dependencies: channel.List{
			{Name: "x", URL: "u", Branch: "master"},
			{Name: "y", URL: "v", Branch: "b", Commit: "c", Introduction: introduced},
		}}, ""},
	{"", nil, "f:1:1: no datum in the file"},
	{"(chanel)", nil, "f:1:1: not a .guix-channel file"},
	{"\n (channel (version 1))", nil, "f:2:2: unsupported version"},
	{"(channel (version 0) (dependencies\n (channel (url \"u\"))))", nil, "f:2:2: the dependency lacks a name"},
	{"(channel (version 0) (dependencies\n (channel (name x))))", nil, "f:2:2: dependency x lacks a url"},
	{"(channel (version 0)\n (directory 1))", nil, "f:2:2: directory must be a string, not 1"},
	{"(channel (version 0) (dependencies\n (channel (name x) (url \"u\"))\n  12))", nil, "f:3:3: 12 is not a dependency"},
	{"(channel (version 0) (dependencies . 12))", nil, "f:1:22: 12 is not a dependency"},
	{`(channel (version 0) (dependencies (channel (name x) (url "u") (introduction (version 0)))))`, nil, "invalid introduction"},
	{"(channel (version 0)", nil, "f:1:21: unexpected end"},
}

func TestReadMetadata(t *testing.T) {
	for _, test := range metadataTests {
		got, err := channel.ReadMetadata("f", []byte(test.text))
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: error %v, want %q", test.text, err, test.err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.text, diff)
		}
	}
}

func TestReadAuthorizationsErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "f:1:1: no datum in the file",
		"(authorizations)":                   "f:1:1: not a .guix-authorizations file",
		"\n (authorizations (version 1) ())": "f:2:2: not a .guix-authorizations file: only (version 0)",
		"(authorizations (version 0) (\n  (\"ABCD\")\n  (alice)))": `f:3:3: not a .guix-authorizations file: (alice) is not ("FINGERPRINT" …)`,
		"(authorizations (version 0) (\n  () ))":                   "f:2:3: ",
		"(authorizations (version 0) ((\"ABCD\")\n (\"AB:CD\")))":  "f:2:2: not a .guix-authorizations file: \"AB:CD\" is not a fingerprint",
		"(authorizations (version 0) ((\"ABCD\")\n (\"ABCD\")":     "f:2:10: unexpected end",
	} {
		if _, err := channel.ReadAuthorizations("f", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func FuzzReaders(f *testing.F) {
	f.Add([]byte(`(channel (version 0) (dependencies (channel (name x) (url "u"))))`))
	f.Add([]byte(`(channel (version 0) (directory . 1) (dependencies . 2))`))
	f.Add([]byte(`(authorizations (version 0) (("3CE4 6455" (name "x"))))`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, metadata := channel.ReadMetadata("f", text)
		keys, authorizations := channel.ReadAuthorizations("f", text)
		if (m == nil) == (metadata == nil) || (keys == nil) == (authorizations == nil) {
			t.Error("neither a value nor an error")
		}
		for _, err := range []error{metadata, authorizations} {
			var syntax *sexp.SyntaxError
			if err != nil && (!errors.As(err, &syntax) || syntax.Pos.Line < 1 || syntax.Pos.Column < 1) {
				t.Errorf("no place in %v", err)
			}
		}
	})
}
