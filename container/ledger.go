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
	"slices"
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
	// Plan is that of what began: see [Plan], Difference; nil for other events.
	Plan *Difference `json:"plan,omitempty"`
	// Probes are what the probes of the generation said while it was tried.
	Probes []Checked `json:"probes,omitempty"`
	// Switched is what the switch took: the gap, and hooks that were run.
	Switched *Switched `json:"switched,omitempty"`
	// Previous is the SHA-256, in hexadecimal, of the line before, which makes
	// any change to the past visible; empty in the first.
	Previous string `json:"previous"`
	// Hash is that of this line, which [Deployment.History] works out. Kept elsewhere, that of the
	// last entry shows later that nothing before it was changed.
	Hash string `json:"-"`
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
	Adopted      Event = "adopted"         // the running generation has other probes from now on, or another way to switch
	WasRefused   Event = "refused"         // [Refused], or a start; nothing began
	WasCutOff    Event = "interrupted"     // found and cleared away by the next process
	WasStarted   Event = "started"         // the current generation, again
	WasStopped   Event = "stopped"         // by hand
	WasNotStable Event = "start-failed"    // of the current generation
	WasApproved  Event = "approved"        // by somebody who looked at it: the confirmation that was waited for
	WasRestarted Event = "restarted"       // a service, which the detail names
	WasPinned    Event = "pinned"          // a generation, see [Deployment.Pin]
	WasUnpinned  Event = "unpinned"
	WasCut       Event = "cut"      // entries are missing before this one
	WasImported  Event = "imported" // with the ledger so far, from another machine
)

// enter appends an entry; the ledger is only ever appended to. If it has been cut, the
// first entry after that says so, for good.
func (d *Deployment) enter(e Entry) error {
	end, errEnd := d.readEnd()
	text, err := readLedger(d.path("ledger.jsonl"))
	if err != nil {
		return err
	}
	last, err := lastEntry(text)
	if err != nil {
		return err
	}
	var cut *CutError
	if errEnd == nil && errors.As(end.check(text), &cut) {
		if last, text, err = d.append(Entry{Event: WasCut, Detail: cut.Error()}, last, text); err != nil {
			return err
		}
	}
	_, _, err = d.append(e, last, text)
	return err
}

// append writes an entry after the last one, then where the ledger ends.
func (d *Deployment) append(e, last Entry, text []byte) (Entry, []byte, error) {
	e.Number, e.Time, e.Previous = last.Number+1, time.Now().UTC(), last.Hash
	line, err := json.Marshal(e)
	if err != nil {
		return e, text, err
	}
	whole := append(slices.Clip(text), append(line, '\n')...)
	f, err := os.OpenFile(d.path("ledger.jsonl"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return e, text, err
	}
	// A last line without its end was being written when the machine stopped:
	// nobody was told of it, and it is written over.
	_, err = f.WriteAt(whole[len(text):], int64(len(text)))
	err = errors.Join(err, f.Truncate(int64(len(whole))), f.Sync(), f.Close())
	e.Hash = hashOf(line)
	if err == nil {
		err = writeJSON(d.path("ledger.end"), ledgerEnd{e.Number, e.Hash})
	}
	return e, whole, err
}

// readLedger returns the complete lines.
func readLedger(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text[:bytes.LastIndexByte(text, '\n')+1], err
}

// ledgerEnd is where the ledger ended when it was last written, or just before that.
type ledgerEnd struct {
	Number int    `json:"number"`
	Hash   string `json:"hash"`
}

// A CutError is a ledger that has lost entries at its end.
type CutError struct {
	Entry int    // that was written and is not there
	Hash  string // of it
	Last  int    // that is there
}

// ExitCode returns the status a program should end with.
func (e *CutError) ExitCode() int { return red }

func (e *CutError) Error() string {
	return fmt.Sprintf("the ledger ends with entry %d, and entry %d with hash %s was written", e.Last, e.Entry, e.Hash)
}

// A LedgerError is a ledger of which a line was changed.
type LedgerError struct {
	Line   int
	Reason string
}

func (e *LedgerError) Error() string { return fmt.Sprintf("read ledger: line %d %s", e.Line, e.Reason) }

// ExitCode returns the status a program should end with.
func (e *LedgerError) ExitCode() int { return red }

// readEnd returns zero if nothing was written down yet. Who reads the ledger while somebody else writes it reads this
// before: then the ledger is there as far.
func (d *Deployment) readEnd() (end ledgerEnd, err error) {
	err = readJSON(d.path("ledger.end"), &end)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return end, err
}

// check returns a *[CutError] if the ledger once went on after text. Whoever can cut it
// can write another end, too: against that only a hash kept elsewhere helps.
func (end ledgerEnd) check(text []byte) error {
	if end == (ledgerEnd{}) {
		return nil
	}
	n := 0
	for line := range bytes.Lines(text) {
		if n++; n == end.Number && hashOf(bytes.TrimSuffix(line, []byte("\n"))) == end.Hash {
			return nil
		}
	}
	return &CutError{end.Number, end.Hash, n}
}

func hashOf(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

func (d *Deployment) lastEntered() (Entry, error) {
	text, err := readLedger(d.path("ledger.jsonl"))
	if err != nil {
		return Entry{}, err
	}
	return lastEntry(text)
}

func lastEntry(text []byte) (Entry, error) {
	lines := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	e, err := parseEntry(lines[len(lines)-1])
	if err != nil {
		return e, &LedgerError{len(lines), err.Error()}
	}
	return e, nil
}

// parseEntry reads a line; no line at all is entry 0.
func parseEntry(line []byte) (e Entry, err error) {
	if len(line) == 0 {
		return e, nil
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return e, fmt.Errorf("is no entry: %v", err)
	}
	e.Hash = hashOf(line)
	return e, nil
}

// History returns the ledger, oldest first, as far as its chain is whole.
// The error says where it was changed, a *[LedgerError], or that it was cut, a *[CutError].
func (d *Deployment) History() ([]Entry, error) {
	end, errEnd := d.readEnd()
	text, err := readLedger(d.path("ledger.jsonl"))
	if err != nil {
		return nil, err
	}
	var entries []Entry
	var before Entry
	for line := range bytes.Lines(text) {
		e, err := parseEntry(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			return entries, &LedgerError{len(entries) + 1, err.Error()}
		}
		if e.Number != before.Number+1 || e.Previous != before.Hash {
			return entries, &LedgerError{len(entries) + 1, "does not follow the one before it: one of the two was changed"}
		}
		entries = append(entries, e)
		before = e
	}
	if errEnd != nil {
		return entries, errEnd
	}
	return entries, end.check(text)
}
