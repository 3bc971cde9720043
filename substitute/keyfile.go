package substitute

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The modes of the files of a key pair, as "guix archive --generate-key" sets them.
const (
	secretMode fs.FileMode = 0o400
	publicMode fs.FileMode = 0o444
)

// ReadPrivateKeyFile reads a signing-key.sec. A file that others than its owner
// may read is refused: whoever has the key can make any machine that authorized
// it run anything. A missing one gives an error for which
// errors.Is(err, fs.ErrNotExist).
func ReadPrivateKeyFile(path string) (*PrivateKey, error) {
	text, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	key, err := ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %v", path, err)
	}
	return key, nil
}

func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%q is a directory", path)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	if _, err := ParsePublicKey(text); err == nil {
		return nil, fmt.Errorf("%q is a public key", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%q is open to others than its owner (mode %04o); make it private with \"chmod %04o\", and consider a new key",
			path, perm, secretMode)
	}
	return text, nil
}

// ReadPublicKeyFile reads a signing-key.pub. A missing one gives an error for
// which errors.Is(err, fs.ErrNotExist).
func ReadPublicKeyFile(path string) (*PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	key, err := ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %v", path, err)
	}
	return key, nil
}

// WriteKeyPair writes the private key to path, which should end in ".sec", with
// mode 0400, and the public one beside it, ending in ".pub", with mode 0444.
// It never replaces a private key: an existing one gives an error for which
// errors.Is(err, fs.ErrExist).
//
// The private file comes first, and is whole as soon as it exists; what
// [EnsureKeyPair] finds after a crash is at worst a missing public file.
func (k *PrivateKey) WriteKeyPair(path string) error {
	err := writeFile(path, secretMode, os.Link, text(k.tree.advanced()))
	if err == nil {
		err = k.writePublic(path)
	}
	if err != nil {
		return fmt.Errorf("write key pair: %w", err)
	}
	return nil
}

// EnsureKeyPair returns the private key at path, generating the pair if there is
// none, and writing the public file if it does not fit. Of several processes
// that do so at once, all get the same key.
func EnsureKeyPair(path string) (*PrivateKey, error) {
	key, err := ReadPrivateKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = GenerateKey().WriteKeyPair(path)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		key, err = ReadPrivateKeyFile(path)
	}
	if err != nil {
		return nil, err
	}
	public, err := ReadPublicKeyFile(publicFile(path))
	if err == nil && public.Equal(key.public) {
		return key, nil
	}
	if err := key.writePublic(path); err != nil {
		return nil, fmt.Errorf("write public key: %w", err)
	}
	return key, nil
}

func publicFile(secret string) string { return strings.TrimSuffix(secret, ".sec") + ".pub" }

func (k *PrivateKey) writePublic(secret string) error {
	return writeFile(publicFile(secret), publicMode, os.Rename, text(k.public.tree.advanced()))
}

// writeFile makes a whole file appear at path: write fills it under another name,
// and publish puts it in place, os.Rename to replace what is there, os.Link not to.
// When it returns, the file is there even after a crash.
func writeFile(path string, mode fs.FileMode, publish func(from, to string) error, write func(io.Writer) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = write(f)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := publish(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// text writes what is at hand.
func text(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
