package lzip_test

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"testing"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute/lzip"
)

// command runs the lzip command, and returns what it writes.
func command(t *testing.T, in []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "lzip", args...)
	cmd.Stdin = bytes.NewReader(in)
	var messages bytes.Buffer
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("lzip %q: %v: %s", args, err, &messages)
	}
	return out
}

// The command reads what we write, and we what it writes, of all sizes about which something changes.
func TestCommand(t *testing.T) {
	guixtest.Require(t)
	if _, err := exec.LookPath("lzip"); err != nil {
		t.Skip("needs the lzip command, which the box has")
	}
	noise := samples()["noise"]
	for _, n := range []int{0, 1, 2, 272, 273, 274, 4095, 4096, 4097, 64 << 10, 64<<10 + 1, len(noise)} {
		data := append(bytes.Repeat([]byte("abc "), n/8), noise[:n-n/8*4]...)
		if got := command(t, compress(t, 3, data), "-d"); !bytes.Equal(got, data) {
			t.Errorf("%d bytes: the command gets %d others", n, len(got))
		}
		if got, err := decompress(command(t, data, "-3"), limit); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: we get %d others, %v", n, len(got), err)
		}
	}
	data := text()[:400_000]
	for _, level := range []int{0, 3, 6, 9} {
		command(t, compress(t, level, data), "-t")
		file := command(t, data, fmt.Sprintf("-%d", level))
		if got, err := decompress(file, 32<<20); err != nil || !bytes.Equal(got, data) {
			t.Errorf("level %d: %d bytes of %d, %v", level, len(got), len(data), err)
		}
	}
	// In members of 100 kB.
	file := command(t, data, "-0", "-b", "100KiB")
	n, err := io.Copy(io.Discard, lzip.NewReader(bytes.NewReader(file), limit))
	if err != nil || n != int64(len(data)) {
		t.Errorf("several members: %d bytes of %d, %v", n, len(data), err)
	}
}
