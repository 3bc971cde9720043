package container

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// An Entry of the ledger is one thing that was done to a deployment.
type Entry struct {
	Number     int       `json:"number"` // counts from 1
	Time       time.Time `json:"time"`
	Event      Event     `json:"event"`
	Generation int       `json:"generation,omitempty"`
	Script     string    `json:"script,omitempty"`
	Lock       string    `json:"lock,omitempty"`
	// Bindings is the digest of [Generation.Bindings], Environment its name.
	Bindings    string `json:"bindings,omitempty"`
	Environment string `json:"environment,omitempty"`
	Who         string `json:"who,omitempty"`
	Why         string `json:"why,omitempty"`
	Detail      string `json:"detail,omitempty"` // of failures, the error
	// Switched is what the switch took: the gap, and hooks that were run.
	Switched *Switched `json:"switched,omitempty"`
	// Previous is the SHA-256, in hexadecimal, of the line before, which makes
	// any change to the past visible; empty in the first.
	Previous string `json:"previous"`
}

// An Event is the kind of an Entry.
type Event string

// What the ledger tells of. Each begun ends in one of those below it,
// or in interrupted when the process that began it was killed.
const (
	Began        Event = "began"           // to replace the running generation
	Confirmed    Event = "confirmed"       // the new generation is healthy and current
	WasKept      Event = "kept"            // [Kept]
	WasRolled    Event = "rolled-back"     // [RolledBack]
	WasLost      Event = "rollback-failed" // [RollbackFailed]
	WasRefused   Event = "refused"         // [Refused]; nothing began
	WasCutOff    Event = "interrupted"     // found and cleared away by the next process
	WasStarted   Event = "started"         // the current generation, again
	WasStopped   Event = "stopped"         // by hand
	WasNotStable Event = "start-failed"    // of the current generation
	WasImported  Event = "imported"        // with the ledger so far, from another machine
)

// enter appends an entry; the ledger is only ever appended to.
func (d *Deployment) enter(e Entry) error {
	name := d.path("ledger.jsonl")
	text, err := readLedger(name)
	if err != nil {
		return err
	}
	last, err := lastEntry(text)
	if err != nil {
		return err
	}
	e.Number, e.Time = last.Number+1, time.Now().UTC()
	e.Previous = last.hash
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// A last line without its end was being written when the machine stopped:
	// nobody was told of it, and it is written over.
	_, err = f.WriteAt(append(line, '\n'), int64(len(text)))
	err = errors.Join(err, f.Truncate(int64(len(text)+len(line)+1)), f.Sync())
	return errors.Join(err, f.Close())
}

// readLedger returns the complete lines.
func readLedger(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text[:bytes.LastIndexByte(text, '\n')+1], err
}

// hashed is an entry with the hash of its line.
type hashed struct {
	Entry
	hash string
}

func lastEntry(text []byte) (hashed, error) {
	lines := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	return parseEntry(lines[len(lines)-1])
}

// parseEntry reads a line; no line at all is entry 0.
func parseEntry(line []byte) (hashed, error) {
	if len(line) == 0 {
		return hashed{}, nil
	}
	sum := sha256.Sum256(line)
	h := hashed{hash: hex.EncodeToString(sum[:])}
	if err := json.Unmarshal(line, &h.Entry); err != nil {
		return h, fmt.Errorf("read ledger: %v", err)
	}
	return h, nil
}

// History returns the ledger, oldest first, as far as its chain is whole.
// The error says where it was tampered with. What was cut off at the end cannot be
// seen: keep the number and hash of the last entry elsewhere to notice that.
func (d *Deployment) History() ([]Entry, error) {
	text, err := readLedger(d.path("ledger.jsonl"))
	if err != nil || len(text) == 0 {
		return nil, err
	}
	var entries []Entry
	var before hashed
	for line := range bytes.Lines(text) {
		e, err := parseEntry(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			return entries, fmt.Errorf("line %d: %w", len(entries)+1, err)
		}
		if e.Number != before.Number+1 || e.Previous != before.hash {
			return entries, fmt.Errorf("read ledger: line %d does not follow the one before it: one of the two was changed",
				len(entries)+1)
		}
		entries = append(entries, e.Entry)
		before = e
	}
	return entries, nil
}
