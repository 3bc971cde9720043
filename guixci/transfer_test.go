package guixci_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/substitute"
)

var _ container.Carrier = (*guixci.Carrier)(nil)

func TestCarrierVouches(t *testing.T) {
	key := substitute.GenerateKey()
	file := func(acl *substitute.ACL) string {
		name := filepath.Join(t.TempDir(), "acl")
		if err := os.WriteFile(name, []byte(acl.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	c := &guixci.Carrier{Key: key, ACL: file(substitute.NewACL(key.Public()))}
	text := []byte("the ledger")
	signature, err := c.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(text, signature); err != nil {
		t.Error(err)
	}
	if err := c.Verify([]byte("the ledges"), signature); err == nil || !strings.Contains(err.Error(), "altered") {
		t.Errorf("error %v", err)
	}
	if err := c.Verify(text, signature[1:]); err == nil {
		t.Error("half a signature is believed")
	}
	c.ACL = file(substitute.NewACL(substitute.GenerateKey().Public()))
	if err := c.Verify(text, signature); err == nil || !strings.Contains(err.Error(), "guix archive --authorize") {
		t.Errorf("error %v", err)
	}
}
