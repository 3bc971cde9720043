package substitute

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func narinfoFiles(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/narinfo/*.narinfo")
	if err != nil || len(names) != 9 {
		t.Fatalf("narinfos %v, %v; want 9", names, err)
	}
	return names
}

func testACL(t testing.TB) *ACL {
	t.Helper()
	acl, err := ReadACLFile("testdata/ed25519/acl")
	if err != nil {
		t.Fatal(err)
	}
	return acl
}

func parsed(t testing.TB, text []byte) *NarInfo {
	t.Helper()
	n, err := ParseNarInfo(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Real narinfos verify, print what they were, and can be made again from what
// they say, the signature included.
func TestRealNarInfos(t *testing.T) {
	acl, key := testACL(t), testKey(t, "ed25519")
	for _, name := range narinfoFiles(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			n := parsed(t, text)
			if err := n.Verify(acl); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(n.Bytes(), text) {
				t.Errorf("prints as %q", n.Bytes())
			}
			again, err := NewNarInfo(&n.Info, key, "vm", n.URLs)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(text), string(again.Bytes())); diff != "" {
				t.Errorf("made anew (-want +got):\n%s", diff)
			}
			if err := again.Verify(acl); err != nil {
				t.Errorf("made anew: %v", err)
			}
		})
	}
}

// What "guix substitute" remembers of our answers has them as they were.
func TestRememberedByGuix(t *testing.T) {
	names, err := filepath.Glob("testdata/client/*")
	if err != nil || len(names) != 2 {
		t.Fatalf("%v, %v; want 2", names, err)
	}
	acl := testACL(t)
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, value, ok := strings.Cut(strings.TrimSpace(string(text)), "(value ")
		narinfo, err := strconv.Unquote(strings.TrimSuffix(value, "))")) // Guile escapes these as Go does
		if !ok || err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		n := parsed(t, []byte(narinfo))
		if err := n.Verify(acl); err != nil {
			t.Error(err)
		}
		if n.StorePath.Hash() != filepath.Base(name) {
			t.Errorf("%s: about %s", name, n.StorePath)
		}
	}
}

func TestParseNarInfo(t *testing.T) {
	n := parsed(t, readFile(t, "narinfo/cache-zstd-lzip-filesize.narinfo"))
	want := []NarURL{
		{"nar/zstd/72d1paqhf2pv4470j291dwmghkiddr04-pkg-11-1.0", "zstd", 16571},
		{"nar/lzip/72d1paqhf2pv4470j291dwmghkiddr04-pkg-11-1.0", "lzip", 14043},
	}
	if diff := cmp.Diff(want, n.URLs); diff != "" {
		t.Errorf("URLs (-want +got):\n%s", diff)
	}
	if n.StorePath != somePath || n.NarSize != 43504 || len(n.References) != 19 ||
		n.NarHash.String() != "sha256:0dc5sj65p83lwv6rjci63j8h9zk617iwzcnbmizyq0439m93h5qp" ||
		n.Deriver != StoreDir+"/q47q7q9wdamny9vdz6s32zdcd5yaqxg4-pkg-11-1.0.drv" {
		t.Errorf("parsed as %+v", n.Info)
	}
}

const plainNarInfo = `StorePath: /gnu/store/72d1paqhf2pv4470j291dwmghkiddr04-pkg-11-1.0
NarHash: sha256:0dc5sj65p83lwv6rjci63j8h9zk617iwzcnbmizyq0439m93h5qp
NarSize: 43504
References: 
`

// The text format is that of recutils, as (guix records) reads it.
func TestParseNarInfoText(t *testing.T) {
	for name, text := range map[string]string{
		"as is":             plainNarInfo,
		"no space":          strings.ReplaceAll(plainNarInfo, ": ", ":"),
		"more space":        strings.ReplaceAll(plainNarInfo, ": ", ": \t "),
		"comment":           "# hello\n" + plainNarInfo,
		"blank lines first": "\n\n" + plainNarInfo,
		"second record":     plainNarInfo + "\nStorePath: nonsense\n",
		"first one counts":  plainNarInfo + "StorePath: nonsense\nNarSize: -1\n",
		"unknown field":     "%rec: x\nSystem: x86_64-linux\n" + plainNarInfo,
		"no last newline":   strings.TrimSuffix(plainNarInfo, "\n"),
		"empty deriver":     plainNarInfo + "Deriver: \n",
	} {
		n, err := ParseNarInfo([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if n.StorePath != somePath || n.NarSize != 43504 || len(n.References) != 0 || n.Deriver != "" {
			t.Errorf("%s: parsed as %+v", name, n.Info)
		}
	}
	n := parsed(t, []byte(plainNarInfo[:len(plainNarInfo)-1]+"09bbcpmjzvzxjyb6w6xbf01s9h4b8rw9-a\n+ 09bbcpmjzvzxjyb6w6xbf01s9h4b8rw9-b\n"))
	if len(n.References) != 2 {
		t.Errorf("continued references parsed as %v", n.References)
	}
}

// A field of many lines costs what its length does.
func TestParseNarInfoLongField(t *testing.T) {
	const lines = 20_000
	text := []byte("StorePath: x\n" + strings.Repeat("+\n", lines))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fields, err := parseFields(string(text))
	runtime.ReadMemStats(&after)
	if err != nil || len(fields) != 1 || fields[0].value != "x"+strings.Repeat("\n", lines) {
		t.Errorf("%d fields, %v", len(fields), err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 2<<20 {
		t.Errorf("took %d bytes of memory", used)
	}
	two, err := parseFields("A: 1\n+ 2\nB:\n+3\n+ 4\nC: 5\n")
	if want := []namedValue{{"A", "1\n2"}, {"B", "\n3\n4"}, {"C", "5"}}; err != nil || !slices.Equal(two, want) {
		t.Errorf("got %q, %v", two, err)
	}
}

func TestParseNarInfoErrors(t *testing.T) {
	alter := func(old, new string) string { return strings.Replace(plainNarInfo, old, new, 1) }
	for name, text := range map[string]string{
		"empty":             "",
		"no colon":          plainNarInfo + "Deriver\n",
		"continues nothing": "+ x\n" + plainNarInfo,
		"no field":          " StorePath: x\n" + plainNarInfo,
		"CR":                strings.ReplaceAll(plainNarInfo, "\n", "\r\n"),
		"no path":           alter("StorePath", "Path"),
		"no hash":           alter("NarHash", "Hash"),
		"no size":           alter("NarSize", "Size"),
		"no references":     alter("References", "Reference"),
		"foreign store":     alter("/gnu/", "/nix/"),
		"bad path":          alter("pkg-11", "pkg/11"),
		"bad hash":          alter("sha256:0", "sha256:e"),
		"negative size":     alter("43504", "-1"),
		"huge size":         alter("43504", "9223372036854775808"),
		"bad reference":     alter("References: ", "References: ../../etc"),
		"full reference":    alter("References: ", "References: "+somePath),
		"bad deriver":       plainNarInfo + "Deriver: x.drv\n",
		"bad file size":     plainNarInfo + "URL: x\nCompression: none\nFileSize: many\n",
		"not UTF-8":         plainNarInfo + "X: \xff\n",
	} {
		if n, err := ParseNarInfo([]byte(text)); err == nil {
			t.Errorf("%s: parsed as %+v", name, n.Info)
		}
	}
}

// The lists are zipped, in the way that surprises servers (and users).
func TestParseNarInfoURLs(t *testing.T) {
	for name, test := range map[string]struct {
		lines string
		want  []NarURL
	}{
		"none":         {"", nil},
		"no sizes":     {"URL: a\nCompression: none\nURL: b\nCompression: zstd\n", []NarURL{{"a", "none", -1}, {"b", "zstd", -1}}},
		"sizes":        {"URL: a\nCompression: none\nFileSize: 0\nURL: b\nCompression: zstd\nFileSize: 7\n", []NarURL{{"a", "none", 0}, {"b", "zstd", 7}}},
		"one size":     {"URL: a\nCompression: none\nFileSize: 5\nURL: b\nCompression: zstd\n", []NarURL{{"a", "none", 5}}},
		"one method":   {"URL: a\nURL: b\nCompression: zstd\n", []NarURL{{"a", "zstd", -1}}},
		"in any order": {"Compression: none\nCompression: gzip\nURL: a\nURL: b\n", []NarURL{{"a", "none", -1}, {"b", "gzip", -1}}},
	} {
		n := parsed(t, []byte(plainNarInfo+test.lines))
		if diff := cmp.Diff(test.want, n.URLs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestNewNarInfoSizes(t *testing.T) {
	n := parsed(t, []byte(plainNarInfo))
	unsigned, err := NewNarInfo(&n.Info, nil, "", []NarURL{{"a", "none", 5}, {"b", "zstd", -1}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(unsigned.Bytes()), plainNarInfo+"URL: a\nCompression: none\nURL: b\nCompression: zstd\n"; got != want {
		t.Errorf("got %q, want %q: sizes for all or none", got, want)
	}
	if _, err := NewNarInfo(&n.Info, GenerateKey(), "a;b", nil); err == nil {
		t.Error("host name with a semicolon accepted")
	}
}

// A doubtful is a narinfo that may be altered, and what is wrong with it.
type doubtful struct {
	text string
	want Reason
}

// doubtfuls are narinfos of all kinds, by what was done to them. The list that authorizes the good ones is testACL.
func doubtfuls(t *testing.T) map[string]doubtful {
	t.Helper()
	good := string(readFile(t, "narinfo/nocache-zstd-refs-deriver.narinfo"))
	info := parsed(t, []byte(good)).Info
	stranger, err := NewNarInfo(&info, GenerateKey(), "vm", parsed(t, []byte(good)).URLs)
	if err != nil {
		t.Fatal(err)
	}
	line := good[strings.Index(good, "Signature:"):]
	line = line[:strings.Index(line, "\n")+1]
	references := good[strings.Index(good, "References:"):]
	references = references[:strings.Index(references, "\n")+1]

	// The hash of the text, with the numbers of another signature.
	forged := parsed(t, []byte(good))
	other, err := testKey(t, "ed25519").Sign(Hash{})
	if err != nil {
		t.Fatal(err)
	}
	forged.Signature.tree.list[2] = other.tree.list[2]
	payload := base64.StdEncoding.EncodeToString(forged.Signature.utf8())

	return map[string]doubtful{
		"good":                     {good, 0},
		"other URL":                {strings.Replace(good, "URL: nar", "URL: http://elsewhere/nar", 1), 0},
		"no signature":             {strings.Replace(good, line, "", 1), Unsigned},
		"signature in a comment":   {strings.Replace(good, line, "# "+line, 1), Unsigned},
		"altered size":             {strings.Replace(good, "NarSize: ", "NarSize: 1", 1), SignedHashMismatch},
		"altered reference":        {strings.Replace(good, references, "References: \n", 1), SignedHashMismatch},
		"earlier 'Signature:'":     {"# Signature:\n" + good, IncompleteSigned},
		"references not signed":    {strings.Replace(good, references, "", 1) + references, IncompleteSigned},
		"version":                  {strings.Replace(good, "1;vm;", "2;vm;", 1), CorruptSignature},
		"two parts":                {strings.Replace(good, "1;vm;", "1;", 1), CorruptSignature},
		"not base64":               {strings.Replace(good, ";vm;", ";vm;%", 1), CorruptSignature},
		"not an s-expression":      {strings.Replace(good, line, "Signature: 1;vm;KGE=\n", 1), CorruptSignature},
		"other s-expression":       {strings.Replace(good, line, "Signature: 1;vm;KGEgYik=\n", 1), CorruptSignature},
		"characters beyond Latin1": {strings.Replace(good, line, "Signature: 1;vm;"+base64.StdEncoding.EncodeToString([]byte("(\"€\")"))+"\n", 1), CorruptSignature},
		"stranger":                 {string(stranger.Bytes()), UnauthorizedKey},
		"forged":                   {strings.Replace(good, line, "Signature: 1;vm;"+payload+"\n", 1), InvalidSignature},
	}
}

func TestVerifyReasons(t *testing.T) {
	acl := testACL(t)
	for name, test := range doubtfuls(t) {
		t.Run(name, func(t *testing.T) {
			err := parsed(t, []byte(test.text)).Verify(acl)
			var untrusted *UntrustedError
			switch {
			case test.want == 0 && err != nil:
				t.Error(err)
			case test.want != 0 && !errors.As(err, &untrusted):
				t.Errorf("error %v, want %v", err, test.want)
			case test.want != 0 && untrusted.Reason != test.want:
				t.Errorf("reason %v, want %v", untrusted.Reason, test.want)
			case test.want != 0 && !strings.Contains(err.Error(), test.want.String()):
				t.Errorf("error %q does not say %q", err, test.want)
			}
		})
	}
}

// All that is said about an item has to be signed, which Guix does not ask of its size and its deriver.
func TestVerifyWantsAllSigned(t *testing.T) {
	acl, key := testACL(t), testKey(t, "ed25519")
	text := string(readFile(t, "narinfo/nocache-zstd-refs-deriver.narinfo"))
	about := text[:strings.Index(text, "Signature:")]
	for _, name := range []string{"NarSize", "Deriver"} {
		start := strings.Index(about, name+": ")
		line := about[start:]
		line = line[:strings.Index(line, "\n")+1]
		signed := strings.Replace(about, line, "", 1)
		signature, _, err := key.signatureLine([]byte(signed), "vm")
		if err != nil {
			t.Fatal(err)
		}
		n := parsed(t, []byte(signed+signature+line))
		var untrusted *UntrustedError
		if err := n.Verify(acl); !errors.As(err, &untrusted) || untrusted.Reason != IncompleteSigned {
			t.Errorf("%s below the signature: %v", name, err)
		}
	}
}

func TestEquivalent(t *testing.T) {
	text := string(readFile(t, "narinfo/nocache-zstd-refs-deriver.narinfo"))
	n := parsed(t, []byte(text))
	if !n.Equivalent(parsed(t, []byte(strings.Replace(text, "URL: ", "URL: x", 1)))) {
		t.Error("another URL makes a difference")
	}
	for _, field := range []string{"NarSize: ", "NarHash: sha256:0", "StorePath: /gnu/store/0", "References: 0"} {
		altered := *n
		switch field {
		case "NarSize: ":
			altered.NarSize++
		case "NarHash: sha256:0":
			altered.NarHash[0]++
		case "References: 0":
			altered.References = altered.References[1:]
		default:
			altered.StorePath += "x"
		}
		if n.Equivalent(&altered) {
			t.Errorf("%s makes no difference", field)
		}
	}
}

// What can be parsed prints as it was, and what is made of it says the same.
func FuzzNarInfo(f *testing.F) {
	for _, name := range narinfoFiles(f) {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(plainNarInfo))
	acl, key := testACL(f), testKey(f, "ed25519")
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := ParseNarInfo(text)
		if err != nil {
			return
		}
		if !bytes.Equal(n.Bytes(), text) {
			t.Errorf("%q printed as %q", text, n.Bytes())
		}
		if n.Verify(acl) == nil && n.Signature == nil {
			t.Errorf("%q verified without a signature", text)
		}
		again, err := NewNarInfo(&n.Info, key, "vm", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := parsed(t, again.Bytes()).Verify(acl); err != nil {
			t.Error(err)
		}
		if !parsed(t, again.Bytes()).Equivalent(n) {
			t.Errorf("%q made anew as %q", text, again.Bytes())
		}
	})
}
