// Package storetest makes small derivations for tests of what uses a store.
//
//	kit := storetest.New(t, client)
//	slow := kit.Add(storetest.Spec{Name: "slow", Script: "sleep 60"})
//	top := kit.Add(storetest.Spec{Name: "top", Script: "echo hi >$out", Inputs: []*storetest.Build{slow}})
//	err := client.Build(ctx, []store.StorePath{top.Derivation}, store.BuildOptions{}, nil)
//
// Scripts are run by the machine's /bin/sh with the daemon's environment: PATH
// is that of a Debian system, which a daemon without chroot lets builders see.
package storetest

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/substitute"
)

// A Kit adds derivations to a store. Those of one Kit differ from those of
// every other, so that they are not built already.
type Kit struct {
	t      testing.TB
	client *store.Client
	salt   string
	shell  string
	source store.StorePath
}

// A Spec describes a derivation.
type Spec struct {
	Name    string            // "test" if empty
	Script  string            // for /bin/sh; has to make $out and the like
	Outputs []string          // names; "out" if empty
	Inputs  []*Build          // all their outputs; the script finds them in $NAME
	Sources []store.StorePath // store items that the outputs may refer to
	System  string            // "x86_64-linux" if empty
	Env     []store.EnvVar
}

// A Build is a derivation in the store.
type Build struct {
	Name       string
	Derivation store.StorePath
	Outputs    map[string]store.StorePath

	modulo string // hash that stands for it in the hashes of its dependents
}

// Out returns the path of the output "out".
func (b *Build) Out() store.StorePath { return b.Outputs["out"] }

// New returns a Kit for the store behind client.
// The machine's shell is copied into the store unless it comes from there.
func New(t testing.TB, client *store.Client) *Kit {
	t.Helper()
	k := &Kit{t: t, client: client, salt: rand.Text()}
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if rest, ok := strings.CutPrefix(shell, substitute.StoreDir+"/"); ok {
		item, _, _ := strings.Cut(rest, "/")
		k.shell, k.source = shell, store.StorePath(substitute.StoreDir+"/"+item)
		return k
	}
	k.source, err = client.AddTree(context.Background(), "sh", shell)
	if err != nil {
		t.Fatal(err)
	}
	k.shell = string(k.source)
	return k
}

// For returns a Kit for another store, which makes the same derivations of the same Specs.
func (k *Kit) For(client *store.Client) *Kit {
	k.t.Helper()
	other := New(k.t, client)
	other.salt = k.salt
	return other
}

// Add puts the derivation that spec describes into the store.
func (k *Kit) Add(spec Spec) *Build {
	k.t.Helper()
	b, d := k.Make(spec)
	path, err := k.client.AddText(context.Background(), b.Name+".drv", []byte(d.String()), d.References())
	if err != nil {
		k.t.Fatal(err)
	}
	if path != b.Derivation {
		k.t.Fatalf("derivation is %s in the store, computed %s", path, b.Derivation)
	}
	return b
}

// Remove deletes items from the store, as soon as the daemon has noticed that the clients are gone
// that held them.
func Remove(t testing.TB, pool *store.Pool, items ...store.StorePath) {
	t.Helper()
	err := pool.Do(context.Background(), func(c *store.Client) error {
		for begin := time.Now(); ; {
			left, err := c.ValidPaths(context.Background(), items)
			if err != nil || len(left) == 0 {
				return err
			}
			_, err = c.Delete(context.Background(), left...)
			if err != nil && (!strings.Contains(err.Error(), "still alive") || time.Since(begin) > time.Minute) {
				return err
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Make computes the derivation without adding it.
func (k *Kit) Make(spec Spec) (*Build, *store.Derivation) {
	d := k.masked(spec)
	b := &Build{Name: cmp.Or(spec.Name, "test"), Outputs: map[string]store.StorePath{}}
	modulo := map[store.StorePath]string{}
	for _, in := range spec.Inputs {
		modulo[in.Derivation] = in.modulo
	}
	hash := hashModulo(d, modulo)
	for i, o := range d.Outputs {
		path := outputPath(o.Name, hash, b.Name)
		d.Outputs[i].Path = path
		b.Outputs[o.Name] = path
		for j := range d.Env {
			if d.Env[j].Name == o.Name {
				d.Env[j].Value = string(path)
			}
		}
	}
	b.modulo = hashModulo(d, modulo)
	b.Derivation = textPath(b.Name+".drv", d)
	return b, d
}

// masked is the derivation with empty output paths.
func (k *Kit) masked(spec Spec) *store.Derivation {
	d := &store.Derivation{
		Sources: append([]store.StorePath{k.source}, spec.Sources...),
		System:  cmp.Or(spec.System, "x86_64-linux"),
		Builder: k.shell,
		Args:    []string{"-c", "PATH=/usr/local/bin:/usr/bin:/bin:/run/current-system/profile/bin\n" + spec.Script},
		Env:     append([]store.EnvVar{{Name: "salt", Value: k.salt}}, spec.Env...),
	}
	outputs := spec.Outputs
	if len(outputs) == 0 {
		outputs = []string{"out"}
	}
	for _, name := range outputs {
		d.Outputs = append(d.Outputs, store.Output{Name: name})
		d.Env = append(d.Env, store.EnvVar{Name: name})
	}
	for _, in := range spec.Inputs {
		d.Inputs = append(d.Inputs, store.Input{Derivation: in.Derivation, Outputs: in.names()})
		d.Env = append(d.Env, store.EnvVar{Name: in.Name, Value: string(in.Outputs[in.names()[0]])})
	}
	byName := func(a, b store.EnvVar) int { return cmp.Compare(a.Name, b.Name) }
	slices.Sort(d.Sources)
	slices.SortFunc(d.Env, byName)
	slices.SortFunc(d.Outputs, func(a, b store.Output) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(d.Inputs, func(a, b store.Input) int { return cmp.Compare(a.Derivation, b.Derivation) })
	return d
}

func (b *Build) names() []string {
	var names []string
	for name := range b.Outputs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// hashModulo is the hash of a derivation in which the hashes of its inputs take
// the place of their names, from which output paths are computed.
func hashModulo(d *store.Derivation, modulo map[store.StorePath]string) string {
	masked := *d
	masked.Inputs = nil
	for _, in := range d.Inputs {
		masked.Inputs = append(masked.Inputs, store.Input{
			Derivation: store.StorePath(modulo[in.Derivation]), Outputs: in.Outputs,
		})
	}
	slices.SortFunc(masked.Inputs, func(a, b store.Input) int { return cmp.Compare(a.Derivation, b.Derivation) })
	sum := sha256.Sum256([]byte(masked.String()))
	return hex.EncodeToString(sum[:])
}

func outputPath(output, hash, name string) store.StorePath {
	if output != "out" {
		return storePath("output:"+output, hash, name+"-"+output)
	}
	return storePath("output:out", hash, name)
}

// textPath is where the store puts a text.
func textPath(name string, d *store.Derivation) store.StorePath {
	refs := d.References()
	slices.Sort(refs)
	kind := "text"
	for _, r := range refs {
		kind += ":" + string(r)
	}
	sum := sha256.Sum256([]byte(d.String()))
	return storePath(kind, hex.EncodeToString(sum[:]), name)
}

// storePath computes a store path as the daemon does.
func storePath(kind, hash, name string) store.StorePath {
	sum := sha256.Sum256([]byte(kind + ":sha256:" + hash + ":" + substitute.StoreDir + ":" + name))
	var short [20]byte
	for i, c := range sum {
		short[i%20] ^= c
	}
	return store.StorePath(substitute.StoreDir + "/" + substitute.EncodeBase32(short[:]) + "-" + name)
}
