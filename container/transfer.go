package container

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// A Carrier moves store items from one machine to another, and vouches for what goes
// with them.
type Carrier interface {
	// Pack writes store items with all they need, signed.
	Pack(ctx context.Context, w io.Writer, items []string) error
	// Unpack adds what Pack has written to the store. What was altered on the way, or was
	// signed by somebody this machine does not trust, is an *[ImportError].
	// The items stay until the Carrier is closed, or rooted.
	Unpack(ctx context.Context, r io.Reader) error
	// Fetch has the store get items from elsewhere, that is, from its substitute servers.
	Fetch(ctx context.Context, items []string) error
	// Sign vouches for a text, Verify returns an error unless somebody trusted has.
	Sign(text []byte) (signature []byte, err error)
	Verify(text, signature []byte) error
}

// A parcel is what is exported beside the store items.
type parcel struct {
	Name        string        `json:"name"`
	Current     int           `json:"current,omitempty"`
	Generations []*Generation `json:"generations"`
	Ledger      []byte        `json:"ledger"`
	// Packed means that the items follow.
	Packed bool `json:"packed"`
	// Items are those of generations that can be run.
	Items []string `json:"items"`
}

// parcelMagic is the first line of an export. The second is the signature of the third, in base64,
// which is a parcel; after it come the store items as [Carrier.Pack] writes them.
const parcelMagic = "guixci deployment 1\n"

// Export writes all it takes to go on with the deployment elsewhere: generations, which of them is
// current, pins, ledger, and their store items, or, unless pack is true, only which
// those are. What mounts and the files of secrets hold is not in it.
func (d *Deployment) Export(ctx context.Context, w io.Writer, carrier Carrier, pack bool) error {
	if err := d.export(ctx, w, carrier, pack); err != nil {
		return fmt.Errorf("export %s: %w", d.Name, err)
	}
	return nil
}

func (d *Deployment) export(ctx context.Context, w io.Writer, carrier Carrier, pack bool) error {
	lease, err := d.acquire("", "export")
	if err != nil {
		return err
	}
	defer lease.Release()
	p, err := d.parcel()
	if err != nil {
		return err
	}
	p.Packed = pack
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	signature, err := carrier.Sign(text)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n%s\n", parcelMagic, base64.StdEncoding.EncodeToString(signature), text)
	if err != nil || !pack {
		return err
	}
	return carrier.Pack(ctx, w, p.Items)
}

// parcel collects what is exported. Generations that were rejected go with it, to be
// remembered; whether their items still exist does not matter.
func (d *Deployment) parcel() (*parcel, error) {
	current, err := d.Current()
	if err != nil {
		return nil, err
	}
	p := &parcel{Name: d.Name}
	if current != nil {
		p.Current = current.Number
	}
	if p.Generations, err = d.Generations(); err != nil {
		return nil, err
	}
	if _, err := d.History(); err != nil {
		return nil, err
	}
	if p.Ledger, err = readLedger(d.path("ledger.jsonl")); err != nil {
		return nil, err
	}
	for _, g := range p.Generations {
		if _, err := os.Stat(g.Script); err != nil && g.Rejected == "" {
			return nil, fmt.Errorf("generation %d: %w", g.Number, err)
		} else if err == nil && !slices.Contains(p.Items, g.Script) {
			p.Items = append(p.Items, g.Script)
		}
	}
	return p, nil
}

// An ImportError is an export that is not accepted.
type ImportError struct{ Reason error }

func (e *ImportError) Error() string { return e.Reason.Error() }

// Unwrap returns the reason.
func (e *ImportError) Unwrap() error { return e.Reason }

// ExitCode returns the status a program should end with.
func (e *ImportError) ExitCode() int { return Refused.ExitCode() }

// Import makes the deployment, of which there must be nothing yet, what was exported from
// another. Nothing runs afterwards: see [Deployment.Start]. One that was altered, or signed
// by somebody who is not trusted, is an *[ImportError], and nothing of it is used. An import that was
// cut off can be done again.
func (d *Deployment) Import(ctx context.Context, r io.Reader, carrier Carrier, who, why string) error {
	if err := d.take(ctx, r, carrier, who, why); err != nil {
		return fmt.Errorf("import %s: %w", d.Name, err)
	}
	return nil
}

func (d *Deployment) take(ctx context.Context, r io.Reader, carrier Carrier, who, why string) error {
	if err := d.checkUntaken(); err != nil {
		return err
	}
	from := bufio.NewReader(r)
	p, err := readParcel(from, carrier)
	if err != nil {
		return err
	}
	if p.Packed {
		err = carrier.Unpack(ctx, from)
	} else {
		err = carrier.Fetch(ctx, p.Items)
	}
	if err != nil {
		return err
	}
	if err := p.check(); err != nil {
		return err
	}
	lease, err := d.acquire(who, cmp.Or(why, "import")) // only now: what is not accepted leaves nothing behind
	if err != nil {
		return err
	}
	defer lease.Release()
	if err := d.checkUntaken(); err != nil { // by somebody else meanwhile
		return err
	}
	if err := d.unpack(ctx, p); err != nil {
		return err
	}
	return d.enter(Entry{Event: WasImported, Generation: p.Current, Who: who, Why: why, Detail: "from " + p.Name})
}

// checkUntaken returns why nothing can be imported.
func (d *Deployment) checkUntaken() error {
	if _, err := os.Stat(d.path("ledger.jsonl")); !errors.Is(err, fs.ErrNotExist) {
		return cmp.Or(err, decline("%s is a deployment already", d.Dir))
	}
	return nil
}

// check returns why it cannot be unpacked, once its items ought to be in the store.
func (p *parcel) check() error {
	for _, g := range p.Generations {
		if g.Number < 1 {
			return &ImportError{fmt.Errorf("generation %d", g.Number)}
		}
	}
	for _, item := range p.Items {
		if _, err := os.Stat(item); err != nil {
			return &ImportError{fmt.Errorf("item is missing: %w", err)}
		}
	}
	return nil
}

// readParcel reads what precedes the store items, and believes nothing that is not signed.
func readParcel(r *bufio.Reader, carrier Carrier) (*parcel, error) {
	var lines [3][]byte
	for i := range lines {
		var err error
		if lines[i], err = r.ReadBytes('\n'); err != nil {
			return nil, &ImportError{fmt.Errorf("it ends too early: %w", err)}
		}
		if i == 0 && string(lines[0]) != parcelMagic {
			return nil, &ImportError{errors.New("it is not an exported deployment")}
		}
	}
	text := bytes.TrimSuffix(lines[2], []byte("\n"))
	signature, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(lines[1])))
	if err == nil {
		err = carrier.Verify(text, signature)
	}
	if err != nil {
		return nil, &ImportError{err}
	}
	p := new(parcel)
	if err := json.Unmarshal(text, p); err != nil {
		return nil, &ImportError{err}
	}
	return p, nil
}

// unpack writes everything down, roots first. The ledger comes last: with it, it is done.
func (d *Deployment) unpack(ctx context.Context, p *parcel) error {
	for _, g := range p.Generations {
		if err := os.MkdirAll(d.generationPath(g.Number), 0o700); err != nil {
			return err
		}
		if d.Root != nil && slices.Contains(p.Items, g.Script) {
			if err := d.Root(ctx, d.generationPath(g.Number, "root"), g.Script); err != nil {
				return fmt.Errorf("root %s: %w", g.Script, err)
			}
		}
		if err := d.writeGeneration(g); err != nil {
			return err
		}
	}
	if p.Current != 0 {
		if err := d.point(p.Current); err != nil {
			return err
		}
	}
	return writeFile(d.path("ledger.jsonl"), p.Ledger)
}
