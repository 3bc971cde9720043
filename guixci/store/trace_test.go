package store

import (
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

const (
	drvA = "/gnu/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a.drv"
	drvB = "/gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-b.drv"
	item = "/gnu/store/cccccccccccccccccccccccccccccccc-c"
)

// frame is a builder's output as the daemon passes it on.
func frame(pid int, text string) string {
	return fmt.Sprintf("@ build-log %d %d\n%s", pid, len(text), text)
}

// traceTests are what a daemon prints and what that means; of Args nothing is said.
var traceTests = map[string]struct {
	text string
	want []Event
}{
	"two builds": {
		text: "@ build-started " + drvA + " - x86_64-linux /var/log/guix/drvs/aa//x.gz 7\n" +
			"@ build-started " + drvB + " - i686-linux  8\n" +
			frame(7, "one\ntw") + frame(8, "eins\n") + frame(7, "o\nthree") +
			"@ build-succeeded " + drvB + " -\n" +
			"@ build-succeeded " + drvA + " -\n",
		want: []Event{
			{Kind: BuildStarted, Derivation: drvA, PID: 7, System: "x86_64-linux", LogFile: "/var/log/guix/drvs/aa/x.gz"},
			{Kind: BuildStarted, Derivation: drvB, PID: 8, System: "i686-linux"},
			{Kind: BuildLog, Derivation: drvA, PID: 7, Text: "one\n"},
			{Kind: BuildLog, Derivation: drvB, PID: 8, Text: "eins\n"},
			{Kind: BuildLog, Derivation: drvA, PID: 7, Text: "two\n"},
			{Kind: BuildSucceeded, Derivation: drvB, PID: 8},
			{Kind: BuildLog, Derivation: drvA, PID: 7, Text: "three"},
			{Kind: BuildSucceeded, Derivation: drvA, PID: 7},
		},
	},
	"failure": {
		text: "@ build-started " + drvA + " - x86_64-linux  7\n" + frame(7, "oh") +
			"builder for `" + drvA + "' failed with exit code 1\n" +
			"@ build-failed " + drvA + " - 1 builder for `" + drvA + "' failed with exit code 1\n",
		want: []Event{
			{Kind: BuildStarted, Derivation: drvA, PID: 7, System: "x86_64-linux"},
			{Kind: BuildLog, Derivation: drvA, PID: 7, Text: "oh"},
			{Kind: DaemonMessage, Text: "builder for `" + drvA + "' failed with exit code 1\n"},
			{Kind: BuildFailed, Derivation: drvA, PID: 7, Text: "builder for `" + drvA + "' failed with exit code 1"},
		},
	},
	"a builder pretends": {
		text: "@ build-started " + drvA + " - x86_64-linux  7\n" +
			frame(7, "@ build-succeeded "+drvB+" -\n@ build-log 9 1000\n") +
			"@ build-failed " + drvA + " - timeout\n",
		want: []Event{
			{Kind: BuildStarted, Derivation: drvA, PID: 7, System: "x86_64-linux"},
			{Kind: BuildLog, Derivation: drvA, PID: 7, Text: "@ build-succeeded " + drvB + " -\n"},
			{Kind: BuildLog, Derivation: drvA, PID: 7, Text: "@ build-log 9 1000\n"},
			{Kind: BuildFailed, Derivation: drvA, PID: 7, Text: "timeout"},
		},
	},
	"process numbers come round": {
		text: "@ build-started " + drvA + " - s  7\n" + frame(7, "a") +
			"@ build-started " + drvB + " - s  7\n" + frame(7, "b"),
		want: []Event{
			{Kind: BuildStarted, Derivation: drvA, PID: 7, System: "s"},
			{Kind: BuildLog, Derivation: drvA, PID: 7, Text: "a"},
			{Kind: BuildStarted, Derivation: drvB, PID: 7, System: "s"},
			{Kind: BuildLog, Derivation: drvB, PID: 7, Text: "b"},
		},
	},
	"substitutes": {
		text: "@ substituter-started " + item + " substitute\n" +
			"@ download-started " + item + " http://x/nar 1000\n" +
			"@ download-progress " + item + " http://x/nar 1000 500\r" +
			"@ substituter-succeeded " + item + "\n" +
			"@ substituter-failed " + item + "  fetching path\n" +
			"@ hash-mismatch " + item + " sha256 aa bb\n",
		want: []Event{
			{Kind: SubstituterStarted, Path: item},
			{Kind: DownloadStarted, Path: item, URL: "http://x/nar", Size: 1000},
			{Kind: DownloadProgress, Path: item, URL: "http://x/nar", Size: 1000, Done: 500},
			{Kind: SubstituterDone, Path: item},
			{Kind: SubstituterFailed, Path: item, Text: " fetching path"},
			{Kind: HashMismatch, Path: item},
		},
	},
	"a builder downloads": {
		text: "@ build-started " + drvA + " - s  7\n" + frame(7, "@ download-started "+item+" http://x -\n"),
		want: []Event{
			{Kind: BuildStarted, Derivation: drvA, PID: 7, System: "s"},
			{Kind: DownloadStarted, Derivation: drvA, PID: 7, Path: item, URL: "http://x", Text: "@ download-started " + item + " http://x -\n"},
		},
	},
	"news": {
		text: "@ something-new a b\n@ build-log x 5\n@ build-log 7 -5\n@ \nwarning",
		want: []Event{
			{Kind: "something-new"},
			{Kind: DaemonMessage, Text: "@ build-log x 5\n"},
			{Kind: DaemonMessage, Text: "@ build-log 7 -5\n"},
			{Kind: ""},
			{Kind: DaemonMessage, Text: "warning"},
		},
	},
}

// parse feeds text in pieces of at most n bytes.
func parse(text string, n int) (events []Event) {
	p := newTraceParser(func(e Event) {
		e.Args = nil
		events = append(events, e)
	})
	for len(text) > 0 {
		n := min(n, len(text))
		p.write([]byte(text[:n]))
		text = text[n:]
	}
	p.close()
	return events
}

func TestTrace(t *testing.T) {
	for name, test := range traceTests {
		for _, piece := range []int{1, 3, 1 << 20} {
			if diff := cmp.Diff(test.want, parse(test.text, piece)); diff != "" {
				t.Errorf("%s, in pieces of %d (-want +got):\n%s", name, piece, diff)
			}
		}
	}
}

func TestTraceKeepsLittle(t *testing.T) {
	long := strings.Repeat("x", 3*maxLine)
	text := "@ build-started " + drvA + " - s  7\n" + frame(7, long+"\nnext\n") + long
	var log, said string
	for _, e := range parse(text, 4096) {
		if len(e.Text) > maxLine+4096 {
			t.Errorf("event with %d bytes of text", len(e.Text))
		}
		switch e.Kind {
		case BuildLog:
			log += e.Text
		case DaemonMessage:
			said += e.Text
		}
	}
	if log != long+"\nnext\n" || said != long {
		t.Errorf("log of %d bytes, message of %d: not what was printed", len(log), len(said))
	}
}

// How the daemon's output is cut makes no difference, and all text arrives.
func FuzzTrace(f *testing.F) {
	for _, test := range traceTests {
		f.Add(test.text, 5)
	}
	f.Fuzz(func(t *testing.T, text string, n int) {
		if n < 1 || len(text) >= maxLine {
			return
		}
		whole := parse(text, len(text)+1)
		if diff := cmp.Diff(whole, parse(text, n)); diff != "" {
			t.Errorf("in one piece (-) and in pieces of %d (+):\n%s", n, diff)
		}
		size := 0
		for _, e := range whole {
			size += len(e.Text)
		}
		if size > len(text) {
			t.Errorf("%d bytes of text out of %d", size, len(text))
		}
	})
}

func TestCauses(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want Failure
	}{
		"silent": {
			"building of `" + drvA + "' timed out after 5 seconds of silence\n@ build-failed " + drvA + " - timeout\n",
			Failure{Cause: Silent, Message: "timeout"},
		},
		"timed out": {
			"building of `" + drvA + "' timed out after %2% seconds\n@ build-failed " + drvA + " - timeout\n",
			Failure{Cause: TimedOut, Message: "timeout"},
		},
		"log too long": {
			"building of `" + drvA + "' killed after writing more than 5 bytes of log output\n@ build-failed " + drvA + " - timeout\n",
			Failure{Cause: LogTooLong, Message: "timeout"},
		},
		"cached": {
			"@ build-failed " + drvA + " - cached\n",
			Failure{Cause: Cached, Message: "cached"},
		},
		"refused": {
			"@ build-failed " + drvA + " - 0 no\n",
			Failure{Cause: Refused, Message: "no"},
		},
		"disk full": {
			"note: build failure may have been caused by lack of free disk space\n@ build-failed " + drvA + " - 1 builder failed with exit code 1\n",
			Failure{Cause: DiskFull, Message: "builder failed with exit code 1"},
		},
		"hash": {
			"@ hash-mismatch " + item + " sha256 aa bb\n@ build-failed " + drvA + " - 1 hash mismatch for store item\n",
			Failure{Cause: Rejected, Message: "hash mismatch for store item: sha256 aa bb"},
		},
		"offloading": {
			"@ hook-failed " + drvA + " - 1 no route\n",
			Failure{Cause: Offloading, Message: "no route"},
		},
		"platform": {
			"@ unsupported-platform " + drvA + " riscv64-linux\n@ build-failed " + drvA + " - 0 whatever\n",
			Failure{Cause: WrongSystem, Message: "no machine for riscv64-linux"},
		},
		"dependency": {
			"cannot build derivation `" + drvA + "': 2 dependencies couldn't be built\n",
			Failure{Cause: Dependency, Message: "cannot build derivation `" + drvA + "': 2 dependencies couldn't be built"},
		},
	} {
		var c collector
		p := newTraceParser(func(e Event) { c.observe(&e) })
		p.write([]byte(test.text))
		p.close()
		test.want.Derivation = drvA
		if diff := cmp.Diff([]Failure{test.want}, c.failures); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Whatever arrives, the reader ends with an error and never takes much memory.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\x05\x00\x00\x00\x00\x00\x00\x00hello\x00\x00\x00"))
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\xff\xff\xff\x03\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReader(iotest.OneByteReader(strings.NewReader(string(b))))
		total := 0
		for r.err == nil {
			for _, p := range r.paths() {
				total += len(p)
			}
			total += len(r.string())
			r.copyTo(&strings.Builder{})
		}
		if total > len(b) {
			t.Errorf("%d bytes of text out of %d", total, len(b))
		}
	})
}
