package guixci

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/guixci/store"
	"github.com/genenetwork/guixci/substitute"
)

// A Carrier implements [container.Carrier]: store items travel as what "guix archive
// --export" makes and "--import" takes, signed with Key, which the machine they
// come to must have authorized ("guix archive --authorize").
type Carrier struct {
	Pool *store.Pool // required
	// Key signs; who only receives needs none.
	Key *substitute.PrivateKey
	// ACL is the file of those who are believed about what is not in the store; about items
	// guix-daemon has its own. Empty means the usual one, /etc/guix/acl.
	ACL string

	client *store.Client // what it has unpacked stays until it is closed
}

// Close lets go of what was unpacked and not rooted.
func (c *Carrier) Close() error {
	if c.client == nil {
		return nil
	}
	return c.client.Close()
}

// Pack implements [container.Carrier].
func (c *Carrier) Pack(ctx context.Context, w io.Writer, items []string) error {
	infos, err := substitute.Closure(ctx, c.Pool, storePaths(items)...)
	if err != nil {
		return err
	}
	bundle := substitute.NewBundleWriter(w, c.Key)
	for _, info := range infos {
		if err := bundle.Add(ctx, c.Pool, info); err != nil {
			return err
		}
	}
	return bundle.Close()
}

// Unpack implements [container.Carrier].
func (c *Carrier) Unpack(ctx context.Context, r io.Reader) error {
	client, err := c.dial(ctx)
	if err != nil {
		return err
	}
	_, err = client.ImportPaths(ctx, r)
	var daemon *store.DaemonError
	if errors.As(err, &daemon) && unwelcome.MatchString(daemon.Message) {
		return &container.ImportError{Reason: err}
	}
	return err
}

// unwelcome is what guix-daemon says of an archive that was altered, or that somebody has signed whom it does not trust;
// it has the same status for all that may go wrong.
var unwelcome = regexp.MustCompile(`imported archive|signature|unauthorized|public key`)

// Fetch implements [container.Carrier].
func (c *Carrier) Fetch(ctx context.Context, items []string) error {
	client, err := c.dial(ctx)
	if err != nil {
		return err
	}
	for _, item := range storePaths(items) {
		if err := client.EnsurePath(ctx, item, store.BuildOptions{UseSubstitutes: true}, nil); err != nil {
			return err
		}
		if err := client.AddTempRoot(ctx, item); err != nil {
			return err
		}
	}
	return nil
}

func (c *Carrier) dial(ctx context.Context) (*store.Client, error) {
	if c.client != nil {
		return c.client, nil
	}
	var err error
	c.client, err = store.Dial(ctx, c.Pool.Address)
	return c.client, err
}

// Sign implements [container.Carrier].
func (c *Carrier) Sign(text []byte) ([]byte, error) {
	s, err := c.Key.Sign(sha256.Sum256(text))
	if err != nil {
		return nil, err
	}
	return s.Bytes(), nil
}

// Verify implements [container.Carrier].
func (c *Carrier) Verify(text, signature []byte) error {
	s, err := substitute.ParseSignature(signature)
	if err == nil {
		err = s.Verify()
	}
	if err != nil {
		return err
	}
	if s.Hash != sha256.Sum256(text) {
		return errors.New("it was altered: the signature is of another text")
	}
	file := cmp.Or(c.ACL, usualACL())
	acl, err := substitute.ReadACLFile(file)
	if err != nil {
		return err
	}
	if !acl.Authorized(s.Key) {
		return fmt.Errorf("it is signed by a key that is not in %s; after a look at it: guix archive --authorize", file)
	}
	return nil
}

// usualACL is where this machine's Guix keeps whom it trusts.
func usualACL() string {
	return filepath.Join(cmp.Or(os.Getenv("GUIX_CONFIGURATION_DIRECTORY"), "/etc/guix"), "acl")
}

func storePaths(items []string) []store.StorePath {
	var paths []store.StorePath
	for _, item := range items {
		paths = append(paths, store.StorePath(item))
	}
	return paths
}
