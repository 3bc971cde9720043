package substitute

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What is remembered holds for its time, and not when the clock says a time before: it has been set back,
// and nobody knows how much time has passed.
func TestMemoryClock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "answers")
	hash := somePath[len(StoreDir)+1:][:hashPartLen]
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	writer := &memory{dir: dir}
	writer.put(hash, nil, now, time.Hour)
	for ahead, want := range map[time.Duration]bool{
		-24 * time.Hour: false, -time.Second: false, 0: true, 59 * time.Minute: true, 61 * time.Minute: false, 1000 * time.Hour: false,
	} {
		for name, m := range map[string]*memory{"same process": writer, "another": {dir: dir}} {
			if n, known := m.get(hash, now.Add(ahead)); n != nil || known != want {
				t.Errorf("%s, %v later: known %v", name, ahead, known)
			}
		}
	}
	writer.put(hash, nil, now, 0)
	writer.put(hash, nil, now.Add(-time.Hour), -time.Hour)
	if _, known := writer.get(hash, now); !known {
		t.Error("what does not hold for any time replaced what does")
	}
	for _, text := range []string{"", "\n", "5\n", "1 \n", "x y\n", "1767322000 9999999999\n", "1767322000 1767323999\nno narinfo"} {
		if err := os.WriteFile(filepath.Join(dir, hash), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, known := (&memory{dir: dir}).get(hash, time.Unix(1767322500, 0)); known {
			t.Errorf("%q: believed", text)
		}
	}
}

// remember fills a directory with answers, the i-th asked i seconds after from.
func remember(t *testing.T, dir string, from time.Time, ttl time.Duration, count int) {
	t.Helper()
	m := &memory{dir: dir}
	for i := range count {
		m.put(fmt.Sprintf("%032d", i), nil, from.Add(time.Duration(i)*time.Second), ttl)
	}
}

func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPrune(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "link") // somewhere else there is room
	if err := os.Symlink(t.TempDir(), dir); err != nil {
		t.Fatal(err)
	}
	short, long := filepath.Join(dir, "short"), filepath.Join(dir, "long")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	remember(t, short, now, time.Minute, 5)
	remember(t, long, now, 200*time.Hour, 10)
	half := filepath.Join(long, ".tmp-half")
	if err := os.WriteFile(half, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(half, now, now)
	prune := func(now time.Time) {
		t.Helper()
		if err := pruneAnswers(t.Context(), dir, now, 4); err != nil {
			t.Fatal(err)
		}
	}
	prune(now.Add(time.Hour))
	if s, l := left(t, short), left(t, long); len(s) != 0 || len(l) != 5 || l[0] != ".tmp-half" || l[1] != fmt.Sprintf("%032d", 6) {
		t.Errorf("left %q and %q, want only the last four asked", s, l)
	}
	remember(t, short, now, time.Minute, 5)
	prune(now.Add(2 * time.Hour))
	if s := left(t, short); len(s) != 5 {
		t.Errorf("pruned twice within a day: %q left", s)
	}
	prune(now.Add(48 * time.Hour))
	if s, l := left(t, short), left(t, long); len(s) != 0 || len(l) != 4 {
		t.Errorf("a day later: left %q and %q", s, l)
	}
	remember(t, short, now, time.Minute, 5)
	ended, end := context.WithCancel(t.Context())
	end()
	later := now.Add(96 * time.Hour)
	if err := pruneAnswers(ended, dir, later, 4); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	prune(later.Add(pruneRetry - time.Second))
	if s := left(t, short); len(s) != 5 {
		t.Errorf("tried again at once: %q left", s)
	}
	prune(later.Add(pruneRetry + time.Second))
	if s := left(t, short); len(s) != 0 {
		t.Errorf("not tried again after an hour: %q left", s)
	}
	remember(t, short, now, time.Minute, 5)
	prune(now.Add(-48 * time.Hour)) // the clock has been set back
	if s, l := left(t, short), left(t, long); len(s)+len(l) != 0 {
		t.Errorf("set back: left %q and %q", s, l)
	}
	if err := (&Client{Dir: filepath.Join(dir, "none")}).Prune(t.Context()); err != nil {
		t.Errorf("nothing remembered: %v", err)
	}
}
