package nar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// A file is a header and the contents that go with it.
type file struct {
	Header
	Data string
}

func regular(path, data string) file {
	return file{Header{Path: path, Mode: ModeRegular, Size: int64(len(data))}, data}
}

func executable(path, data string) file {
	f := regular(path, data)
	f.Mode = ModeExecutable
	return f
}

func directory(path string) file {
	return file{Header{Path: path, Mode: ModeDirectory}, ""}
}

func symlink(path, target string) file {
	return file{Header{Path: path, Mode: ModeSymlink, Target: target}, ""}
}

// raw spells an archive word by word; "#" before a word takes it as it is.
func raw(words ...string) string {
	var b []byte
	for _, w := range words {
		if rest, ok := strings.CutPrefix(w, "#"); ok {
			b = append(b, rest...)
		} else {
			b = appendString(b, w)
		}
	}
	return string(b)
}

// notText is the archive with a name that is not UTF-8.
const notText = "name that is no text"

var archives = []struct {
	name  string
	files []file
	bytes string
}{
	{
		"file", []file{regular("", "hello")},
		raw("nix-archive-1", "(", "type", "regular", "contents", "hello", ")"),
	},
	{
		"empty file", []file{regular("", "")},
		raw("nix-archive-1", "(", "type", "regular", "contents", "", ")"),
	},
	{
		"executable of a whole number of words", []file{executable("", "12345678")},
		raw("nix-archive-1", "(", "type", "regular", "executable", "", "contents", "12345678", ")"),
	},
	{
		"symlink", []file{symlink("", "/gnu/store/x")},
		raw("nix-archive-1", "(", "type", "symlink", "target", "/gnu/store/x", ")"),
	},
	{
		"empty directory", []file{directory("")},
		raw("nix-archive-1", "(", "type", "directory", ")"),
	},
	{
		"tree", []file{
			directory(""),
			directory("bin"), executable("bin/run", "run!"), symlink("bin/sh", "run"),
			directory("empty"),
			directory("share"), directory("share/a"), regular("share/a/b", "x"),
			regular("z", ""),
		},
		raw("nix-archive-1", "(", "type", "directory",
			"entry", "(", "name", "bin", "node", "(", "type", "directory",
			"entry", "(", "name", "run", "node", "(", "type", "regular", "executable", "", "contents", "run!", ")", ")",
			"entry", "(", "name", "sh", "node", "(", "type", "symlink", "target", "run", ")", ")",
			")", ")",
			"entry", "(", "name", "empty", "node", "(", "type", "directory", ")", ")",
			"entry", "(", "name", "share", "node", "(", "type", "directory",
			"entry", "(", "name", "a", "node", "(", "type", "directory",
			"entry", "(", "name", "b", "node", "(", "type", "regular", "contents", "x", ")", ")",
			")", ")", ")", ")",
			"entry", "(", "name", "z", "node", "(", "type", "regular", "contents", "", ")", ")",
			")"),
	},
	{
		// Names sort by bytes, and within their directory: not as whole paths would.
		"order", []file{
			directory(""), directory("a"), regular("a/é", "1"), regular("a-b", "2"), regular("a.b", "3"), regular("ab", "4"),
		},
		raw("nix-archive-1", "(", "type", "directory",
			"entry", "(", "name", "a", "node", "(", "type", "directory",
			"entry", "(", "name", "é", "node", "(", "type", "regular", "contents", "1", ")", ")",
			")", ")",
			"entry", "(", "name", "a-b", "node", "(", "type", "regular", "contents", "2", ")", ")",
			"entry", "(", "name", "a.b", "node", "(", "type", "regular", "contents", "3", ")", ")",
			"entry", "(", "name", "ab", "node", "(", "type", "regular", "contents", "4", ")", ")",
			")"),
	},
	{
		// Guile cannot read such a name, but archives of the daemon's can have it.
		notText, []file{directory(""), regular("b\xff", "5")},
		raw("nix-archive-1", "(", "type", "directory",
			"entry", "(", "name", "b\xff", "node", "(", "type", "regular", "contents", "5", ")", ")",
			")"),
	},
}

func readAll(r io.Reader) ([]file, error) {
	nr := NewReader(r)
	var files []file
	for {
		hdr, err := nr.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		data, err := io.ReadAll(nr)
		if err != nil {
			return files, err
		}
		files = append(files, file{*hdr, string(data)})
	}
}

func writeAll(w io.Writer, files []file) error {
	nw := NewWriter(w)
	for _, f := range files {
		if err := nw.WriteHeader(&f.Header); err != nil {
			return err
		}
		if _, err := io.WriteString(nw, f.Data); err != nil {
			return err
		}
	}
	return nw.Close()
}

func TestReader(t *testing.T) {
	for _, test := range archives {
		t.Run(test.name, func(t *testing.T) {
			in := strings.NewReader(test.bytes + "more")
			got, err := readAll(iotest.OneByteReader(in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.files, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if in.Len() != len("more") {
				t.Errorf("%d bytes after the archive are left, want 4", in.Len())
			}
		})
	}
}

func TestReaderSkipsContents(t *testing.T) {
	for _, test := range archives {
		nr := NewReader(strings.NewReader(test.bytes))
		var got []Header
		for {
			hdr, err := nr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			got = append(got, *hdr)
		}
		var want []Header
		for _, f := range test.files {
			want = append(want, f.Header)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: headers (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestWriter(t *testing.T) {
	for _, test := range archives {
		t.Run(test.name, func(t *testing.T) {
			var got bytes.Buffer
			if err := writeAll(&got, test.files); err != nil {
				t.Fatal(err)
			}
			if got.String() != test.bytes {
				t.Errorf("got  %q\nwant %q", got.String(), test.bytes)
			}
		})
	}
}

func TestReaderTruncated(t *testing.T) {
	for _, test := range archives {
		for n := range test.bytes {
			_, err := readAll(strings.NewReader(test.bytes[:n]))
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s, first %d bytes: error %v", test.name, n, err)
			}
		}
	}
}

func TestReaderPassesErrorsOn(t *testing.T) {
	broken := errors.New("line is down")
	for _, test := range archives {
		for n := range test.bytes {
			in := io.MultiReader(strings.NewReader(test.bytes[:n]), iotest.ErrReader(broken))
			if _, err := readAll(in); !errors.Is(err, broken) {
				t.Fatalf("%s, after %d bytes: error %v", test.name, n, err)
			}
		}
	}
}

// dirOf is an archive of a directory that has the named empty files.
func dirOf(names ...string) string {
	words := []string{"nix-archive-1", "(", "type", "directory"}
	for _, n := range names {
		words = append(words, "entry", "(", "name", n, "node",
			"(", "type", "regular", "contents", "", ")", ")")
	}
	return raw(append(words, ")")...)
}

var malformed = map[string]string{
	"magic":             raw("nix-archive-2", "(", "type", "directory", ")"),
	"type":              raw("nix-archive-1", "(", "type", "fifo\x00\x00\x00\x00", ")"),
	"unsorted":          dirOf("b", "a"),
	"repeated":          dirOf("a", "a"),
	"empty name":        dirOf(""),
	"dot":               dirOf("."),
	"dot dot":           dirOf(".."),
	"slash":             dirOf("a/b"),
	"absolute":          dirOf("/etc"),
	"NUL":               dirOf("a\x00"),
	"long name":         dirOf(strings.Repeat("x", MaxName+1)),
	"file size":         raw("nix-archive-1", "(", "type", "regular", "contents", "#\xff\xff\xff\xff\xff\xff\xff\xff"),
	"negative size":     raw("nix-archive-1", "(", "type", "regular", "contents", "#\x00\x00\x00\x00\x00\x00\x00\x80"),
	"name size":         raw("nix-archive-1", "(", "type", "directory", "entry", "(", "name", "#\x00\x00\x00\x00\x00\x01\x00\x00"),
	"padding":           raw("nix-archive-1", "(", "type", "regular", "contents", "#\x01\x00\x00\x00\x00\x00\x00\x00x\x01\x00\x00\x00\x00\x00\x00", ")"),
	"no target":         raw("nix-archive-1", "(", "type", "symlink", ")"),
	"empty target":      raw("nix-archive-1", "(", "type", "symlink", "target", "", ")"),
	"long target":       raw("nix-archive-1", "(", "type", "symlink", "target", strings.Repeat("x", MaxTarget+1), ")"),
	"NUL in target":     raw("nix-archive-1", "(", "type", "symlink", "target", "a\x00b", ")"),
	"executable value":  raw("nix-archive-1", "(", "type", "regular", "executable", "yes", "contents", "", ")"),
	"no contents":       raw("nix-archive-1", "(", "type", "regular", "#\x01\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00"),
	"missing close":     raw("nix-archive-1", "(", "type", "regular", "contents", "", "("),
	"entry without (":   raw("nix-archive-1", "(", "type", "directory", "entry", "name", "a"),
	"padding of a name": raw("nix-archive-1", "(", "type", "directory", "entry", "(", "name", "#\x01\x00\x00\x00\x00\x00\x00\x00a\x00\x00\x00\x00\x00\x00\x01"),
}

func TestReaderRefuses(t *testing.T) {
	for name, in := range malformed {
		_, err := readAll(strings.NewReader(in + strings.Repeat("\x00", 64)))
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: error %v, want one of format", name, err)
		}
	}
}

// Depth costs a Reader no more than the path's length, which has a limit.
func TestReaderLimitsDepth(t *testing.T) {
	deep := raw("nix-archive-1", "(", "type", "directory") +
		strings.Repeat(raw("entry", "(", "name", "d", "node", "(", "type", "directory"), 3000)
	files, err := readAll(strings.NewReader(deep))
	if !errors.Is(err, ErrFormat) {
		t.Errorf("error %v, want one of format", err)
	}
	if last := files[len(files)-1].Path; len(last) != MaxPath {
		t.Errorf("deepest path has %d bytes, want %d", len(last), MaxPath)
	}
}

func TestReaderErrorIsFinal(t *testing.T) {
	nr := NewReader(strings.NewReader("nonsense"))
	_, first := nr.Next()
	_, again := nr.Next()
	_, read := nr.Read(make([]byte, 1))
	if first == nil || again != first || read != first {
		t.Errorf("errors %v, %v, %v; want the same", first, again, read)
	}
}

func TestWriterRefuses(t *testing.T) {
	tests := map[string][]file{
		"nothing":            {},
		"root with a name":   {regular("a", "")},
		"no parent":          {directory(""), regular("a/b", "")},
		"parent is a file":   {directory(""), regular("a", ""), regular("a/b", "")},
		"two roots":          {directory(""), directory("")},
		"second root":        {regular("", ""), regular("", "")},
		"unsorted":           {directory(""), regular("b", ""), regular("a", "")},
		"repeated":           {directory(""), directory("a"), regular("a/x", ""), regular("a", "")},
		"back into a closed": {directory(""), directory("a"), directory("b"), regular("a/x", "")},
		"dot dot":            {directory(""), regular("..", "")},
		"trailing slash":     {directory(""), directory("a/")},
		"too long":           {{Header{Mode: ModeRegular, Size: 1}, "xy"}},
		"too short":          {{Header{Mode: ModeRegular, Size: 2}, "x"}},
		"negative":           {{Header{Mode: ModeRegular, Size: -1}, ""}},
		"data of a link":     {{Header{Mode: ModeSymlink, Target: "x"}, "y"}},
		"no target":          {symlink("", "")},
		"device":             {{Header{Mode: os.ModeDevice}, ""}},
	}
	for name, files := range tests {
		if err := writeAll(io.Discard, files); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func TestWriterAfterClose(t *testing.T) {
	nw := NewWriter(io.Discard)
	if err := nw.WriteHeader(&Header{Mode: ModeDirectory}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := nw.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := nw.WriteHeader(&Header{Path: "a", Mode: ModeRegular}); err == nil {
		t.Error("header written after Close")
	}
}

func TestWriterPassesErrorsOn(t *testing.T) {
	tree := archives[5]
	for n := range len(tree.bytes) {
		err := writeAll(&brittle{left: n}, tree.files)
		if !errors.Is(err, errBrittle) {
			t.Fatalf("after %d bytes: error %v", n, err)
		}
	}
}

// A brittle writer takes left bytes.
type brittle struct{ left int }

var errBrittle = errors.New("no space")

func (b *brittle) Write(p []byte) (int, error) {
	if len(p) > b.left {
		return b.left, errBrittle
	}
	b.left -= len(p)
	return len(p), nil
}

// Whatever can be read is written back as the same bytes: there is no second
// spelling of a tree.
func FuzzReader(f *testing.F) {
	for _, a := range archives {
		f.Add([]byte(a.bytes))
	}
	for _, m := range malformed {
		f.Add([]byte(m))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		files, err := readAll(in)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := writeAll(&out, files); err != nil {
			t.Fatalf("write what was read: %v", err)
		}
		if read := data[:len(data)-in.Len()]; !bytes.Equal(read, out.Bytes()) {
			t.Errorf("read  %q\nwrote %q", read, out.Bytes())
		}
	})
}

func BenchmarkReader(b *testing.B) {
	data, err := os.ReadFile("testdata/pkg-11.nar")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	buf := make([]byte, 32<<10)
	for b.Loop() {
		nr := NewReader(bytes.NewReader(data))
		for {
			if _, err := nr.Next(); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{nr}, buf); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkWriter(b *testing.B) {
	files := []file{directory("")}
	for i := range 1000 {
		files = append(files, regular(fmt.Sprintf("%04d", i), strings.Repeat("x", 500)))
	}
	var size bytes.Buffer
	if err := writeAll(&size, files); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if err := writeAll(io.Discard, files); err != nil {
			b.Fatal(err)
		}
	}
}
