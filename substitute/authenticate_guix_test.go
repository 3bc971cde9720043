package substitute_test

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
	"github.com/genenetwork/guixci/substitute"
)

// guixCommand is a command that takes its keys from config instead of /etc/guix.
func guixCommand(t testing.TB, config string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "guix", args...)
	cmd.Env = append(os.Environ(), "GUIX_CONFIGURATION_DIRECTORY="+config, "XDG_CACHE_HOME="+t.TempDir())
	cmd.Stderr = os.Stderr
	return cmd
}

// configDir is a configuration directory whose list has the given keys.
func configDir(t testing.TB, keys ...*substitute.PublicKey) string {
	t.Helper()
	dir := t.TempDir()
	acl := substitute.NewACL(keys...).String()
	if err := os.WriteFile(filepath.Join(dir, "acl"), []byte(acl), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// An authenticator is a running "guix authenticate".
type authenticator struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func authenticate(t testing.TB, config string) *authenticator {
	t.Helper()
	cmd := guixCommand(t, config, "authenticate")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("guix authenticate: %v", err)
		}
	})
	return &authenticator{in, bufio.NewReader(out)}
}

// ask sends a command and returns the reply, or its message as an error.
func (a *authenticator) ask(command string, args ...string) (string, error) {
	request := command
	for _, arg := range args {
		request += fmt.Sprintf(" %d:%s", len(arg), arg)
	}
	if _, err := io.WriteString(a.in, request+"\n"); err != nil {
		return "", err
	}
	code, err := a.out.ReadString(' ')
	if err != nil {
		return "", err
	}
	length, err := a.out.ReadString(':')
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(length, ":"))
	if err != nil {
		return "", err
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(a.out, payload); err != nil {
		return "", err
	}
	if code != "0 " {
		return "", errors.New(string(payload))
	}
	return string(payload), nil
}

// Real Guix makes, of our key files, the very signatures that we make.
func TestGuixSigns(t *testing.T) {
	guixtest.Require(t)
	secret := filepath.Join(t.TempDir(), "signing-key.sec")
	key, err := substitute.EnsureKeyPair(secret)
	if err != nil {
		t.Fatal(err)
	}
	guix := authenticate(t, configDir(t))
	for i := range 5000 {
		hash := substitute.Hash(sha256.Sum256([]byte{byte(i), byte(i >> 8)}))
		theirs, err := guix.ask("sign", secret, fmt.Sprintf("%x", hash[:]))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := key.Sign(hash)
		if err != nil {
			t.Fatal(err)
		}
		if string(ours.Bytes()) != theirs {
			t.Errorf("hash %v:\nours   %q\ntheirs %q", hash, ours.Bytes(), theirs)
		}
		parsed, err := substitute.ParseSignature([]byte(theirs))
		if err == nil {
			err = parsed.Verify()
		}
		if err != nil {
			t.Errorf("theirs: %v", err)
		}
	}
}

// Real Guix believes our signatures when our list has the key, and only then.
func TestGuixVerifies(t *testing.T) {
	guixtest.Require(t)
	ours, stranger := substitute.GenerateKey(), substitute.GenerateKey()
	keys := map[string]*substitute.PrivateKey{"generated": ours}
	public := []*substitute.PublicKey{ours.Public()}
	for _, dir := range []string{"ed25519", "rsa2048", "nistp256"} {
		text, err := os.ReadFile("testdata/" + dir + "/signing-key.sec")
		if err != nil {
			t.Fatal(err)
		}
		if keys[dir], err = substitute.ParsePrivateKey(text); err != nil {
			t.Fatal(err)
		}
		public = append(public, keys[dir].Public())
	}
	guix := authenticate(t, configDir(t, public...))
	for name, key := range keys {
		for i := range 50 {
			hash := substitute.Hash(sha256.Sum256([]byte{byte(i)}))
			sig, err := key.Sign(hash)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := guix.ask("verify", string(sig.Bytes()))
			if err != nil || reply != fmt.Sprintf("%x", hash[:]) {
				t.Errorf("%s: reply %q, error %v", name, reply, err)
			}
		}
	}
	sig, err := stranger.Sign(substitute.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := guix.ask("verify", string(sig.Bytes())); err == nil || !strings.Contains(err.Error(), "unauthorized public key") {
		t.Errorf("stranger: error %v", err)
	}
}

// Both sides give the same answer to an altered signature.
func TestGuixRefusesAltered(t *testing.T) {
	guixtest.Require(t)
	key := substitute.GenerateKey()
	guix := authenticate(t, configDir(t, key.Public()))
	sig, err := key.Sign(substitute.Hash{1})
	if err != nil {
		t.Fatal(err)
	}
	text := string(sig.Bytes())
	altered := strings.Replace(text, "sha256 #01", "sha256 #02", 1)
	if _, err := guix.ask("verify", altered); err == nil || !strings.Contains(err.Error(), "invalid signature") {
		t.Errorf("guix: error %v", err)
	}
	parsed, err := substitute.ParseSignature([]byte(altered))
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.Verify(); err == nil {
		t.Error("we accept what Guix refuses")
	}
}

// "guix archive --authorize" reads our public key and writes the list that we
// would; and we read the key pair that Guix generates.
func TestGuixKeyFiles(t *testing.T) {
	guixtest.Require(t)
	dir := t.TempDir()
	key := substitute.GenerateKey()
	cmd := guixCommand(t, dir, "archive", "--authorize")
	cmd.Stdin = strings.NewReader(key.Public().String())
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	acl, err := substitute.ReadACLFile(filepath.Join(dir, "acl"))
	if err != nil {
		t.Fatal(err)
	}
	if !acl.Authorized(key.Public()) {
		t.Errorf("not authorized by %s", acl)
	}
	text, err := os.ReadFile(filepath.Join(dir, "acl"))
	if err != nil {
		t.Fatal(err)
	}
	if got := acl.String(); got != string(text) {
		t.Errorf("list prints as %q, Guix wrote %q", got, text)
	}

	if err := guixCommand(t, dir, "archive", "--generate-key").Run(); err != nil {
		t.Fatal(err)
	}
	theirs, err := substitute.ReadPrivateKeyFile(filepath.Join(dir, "signing-key.sec"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := substitute.ReadPublicKeyFile(filepath.Join(dir, "signing-key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if !theirs.Public().Equal(public) {
		t.Error("the two files that Guix generated are of different keys")
	}
}
