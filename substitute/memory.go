package substitute

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// A memory has a cache's answers, for as long as it said that they hold. It
// is a convenience: what cannot be kept or read is asked again. Nothing in it is
// believed because it is there: signatures are checked each time.
//
// On disk there is one file for each answer, called by the hash part: a line with the times
// from and until which it holds, in seconds of Unix time, then the narinfo, empty for "none".
type memory struct {
	dir string // "" for none

	mu  sync.Mutex // guards all
	all map[string]remembered
}

type remembered struct {
	narinfo     *NarInfo // nil: there is none
	from, until time.Time
}

// holds reports whether the answer may be used now. One from the future is from a clock that has been
// set back since: it could hold for any time.
func (r remembered) holds(now time.Time) bool {
	return !now.Before(r.from) && !now.After(r.until) && r.until.Sub(r.from) <= longestTTL
}

// memoryEntries bounds what is kept in memory, to some 50 MB.
const memoryEntries = 20_000

func memoryDir(dir, url string) string {
	if dir == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(url))
	return filepath.Join(dir, EncodeBase32(sum[:]))
}

// get returns the answer that is known to hold now.
func (m *memory) get(hashPart string, now time.Time) (n *NarInfo, known bool) {
	m.mu.Lock()
	found, ok := m.all[hashPart]
	m.mu.Unlock()
	if !ok && m.dir != "" {
		found, ok = m.read(hashPart)
		if ok {
			m.keep(hashPart, found)
		}
	}
	if !ok || !found.holds(now) {
		return nil, false
	}
	return found.narinfo, true
}

func (m *memory) read(hashPart string) (remembered, bool) {
	data, err := os.ReadFile(filepath.Join(m.dir, hashPart))
	if err != nil {
		return remembered{}, false
	}
	line, text, ok := bytes.Cut(data, []byte("\n"))
	found, good := parseTimes(line)
	if !ok || !good {
		return remembered{}, false
	}
	if len(text) > 0 {
		if found.narinfo, err = ParseNarInfo(text); err != nil {
			return remembered{}, false
		}
	}
	return found, true
}

// parseTimes reads the first line of a file.
func parseTimes(line []byte) (r remembered, ok bool) {
	first, second, _ := bytes.Cut(line, []byte(" "))
	from, err1 := strconv.ParseInt(string(first), 10, 64)
	until, err2 := strconv.ParseInt(string(second), 10, 64)
	return remembered{from: time.Unix(from, 0), until: time.Unix(until, 0)}, err1 == nil && err2 == nil
}

// put remembers an answer that holds for some time from now on.
func (m *memory) put(hashPart string, n *NarInfo, now time.Time, ttl time.Duration) {
	if ttl <= 0 {
		return
	}
	until := now.Add(ttl)
	m.keep(hashPart, remembered{n, now, until})
	if m.dir == "" {
		return
	}
	data := append(strconv.AppendInt(nil, now.Unix(), 10), ' ')
	data = strconv.AppendInt(data, until.Unix(), 10)
	data = append(data, '\n')
	if n != nil {
		data = append(data, n.text...)
	}
	m.write(hashPart, data)
}

// write makes the file appear whole, but does not wait for the disk: after a
// crash it may be missing, or be one that cannot be parsed.
func (m *memory) write(hashPart string, data []byte) {
	if os.MkdirAll(m.dir, 0o755) != nil {
		return
	}
	f, err := os.CreateTemp(m.dir, ".tmp-")
	if err != nil {
		return
	}
	_, err = f.Write(data)
	if f.Close() != nil || err != nil || os.Rename(f.Name(), filepath.Join(m.dir, hashPart)) != nil {
		os.Remove(f.Name())
	}
}

func (m *memory) keep(hashPart string, r remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil || len(m.all) >= memoryEntries {
		m.all = make(map[string]remembered)
	}
	m.all[hashPart] = r
}

// forget makes the next question go to the cache itself: what was remembered
// did not help.
func (m *memory) forget(hashPart string) {
	m.mu.Lock()
	delete(m.all, hashPart)
	m.mu.Unlock()
	if m.dir != "" {
		os.Remove(filepath.Join(m.dir, hashPart))
	}
}
