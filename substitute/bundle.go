package substitute

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/genenetwork/guixci/substitute/nar"
)

// A bundle is what "guix archive --export" writes and "--import" reads: for each item the number 1,
// its archive, bundleMagic, its path, references and deriver, the number 1 and a
// signature of all from the archive to the deriver; at last the number 0.
const bundleMagic = 0x4558494e

// A BundleWriter writes items for "guix archive --import", and for the daemon, which
// also puts items into the store in this way. It is not safe for concurrent use.
type BundleWriter struct {
	w   io.Writer
	key *PrivateKey
	err error // sticky
}

// NewBundleWriter returns a writer of a bundle to w whose items are signed with key, which
// whoever reads it has to have authorized.
func NewBundleWriter(w io.Writer, key *PrivateKey) *BundleWriter {
	return &BundleWriter{w: w, key: key}
}

// Add writes an item of src. What it refers to must come before it, or be in
// the reader's store. An archive that is not what info says is not signed: the bundle
// ends there, with the error that this and all later calls return.
func (b *BundleWriter) Add(ctx context.Context, src Source, info *Info) error {
	if b.err == nil {
		if err := b.add(ctx, src, info); err != nil {
			b.err = fmt.Errorf("write %s to bundle: %w", info.StorePath, err)
		}
	}
	return b.err
}

func (b *BundleWriter) add(ctx context.Context, src Source, info *Info) error {
	if _, err := b.w.Write(number(nil, 1)); err != nil {
		return err
	}
	sum := sha256.New()
	check := &checker{w: io.MultiWriter(b.w, sum), info: info, sum: sha256.New()}
	if err := src.WriteNAR(ctx, check, info); err != nil {
		return err
	}
	if err := check.verify(); err != nil {
		return err
	}
	meta := bundleMeta(info)
	sum.Write(meta)
	sig, err := b.key.Sign(Hash(sum.Sum(nil)))
	if err != nil {
		return err
	}
	_, err = b.w.Write(str(number(meta, 1), string(sig.Bytes())))
	return err
}

// Close writes the end of the bundle. It does not close the writer beneath.
func (b *BundleWriter) Close() error {
	if b.err != nil {
		return b.err
	}
	_, err := b.w.Write(number(nil, 0))
	b.err = errors.New("bundle is closed")
	return err
}

// bundleMeta is what follows an item's archive and is signed with it.
func bundleMeta(info *Info) []byte {
	b := str(number(nil, bundleMagic), string(info.StorePath))
	b = number(b, uint64(len(info.References)))
	for _, ref := range info.References {
		b = str(b, string(ref))
	}
	return str(b, string(info.Deriver))
}

func number(b []byte, n uint64) []byte { return binary.LittleEndian.AppendUint64(b, n) }

func str(b []byte, s string) []byte {
	b = append(number(b, uint64(len(s))), s...)
	return append(b, make([]byte, -len(s)&7)...)
}

// An Importer adds the items of a bundle to a store, as guix-daemon does if it
// has authorized the bundle's key: store.Client is one.
type Importer interface {
	ImportPaths(ctx context.Context, bundle io.Reader) ([]StorePath, error)
}

// Import adds items of src, usually a [Client], to a store: those it gets in the order of
// infos, so that what they refer to must come first, as in [Closure]. They are signed with
// key on the way, which the store must have authorized. An archive is checked before it
// is signed, so that the store takes no wrong one.
func Import(ctx context.Context, to Importer, key *PrivateKey, src Source, infos []*Info) ([]StorePath, error) {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := writeBundle(ctx, w, key, src, infos)
		w.CloseWithError(err)
		written <- err
	}()
	paths, err := to.ImportPaths(ctx, r)
	r.CloseWithError(errImported)
	if failed := <-written; failed != nil && !errors.Is(failed, errImported) {
		err = failed
	}
	if err != nil {
		return paths, fmt.Errorf("import: %w", err)
	}
	return paths, nil
}

var errImported = errors.New("import has ended")

func writeBundle(ctx context.Context, w io.Writer, key *PrivateKey, src Source, infos []*Info) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	b := NewBundleWriter(buffered, key)
	for _, info := range infos {
		if err := b.Add(ctx, src, info); err != nil {
			return err
		}
	}
	if err := b.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

// A BundleReader reads a bundle, one item after the other:
//
//	for {
//		info, err := r.Next(archive, acl)
//		if err == io.EOF {
//			break
//		}
//		…
//	}
//
// It is not safe for concurrent use.
type BundleReader struct {
	r   *bufio.Reader
	sum hash.Hash // of what is signed
	err error     // sticky
}

// NewBundleReader returns a reader of the bundle r.
func NewBundleReader(r io.Reader) *BundleReader {
	return &BundleReader{r: bufio.NewReaderSize(r, 64<<10)}
}

const (
	maxBundleRefs      = 100_000
	maxBundleSignature = 64 << 10
)

// Next reads an item, and writes its archive to w, which should not be used before Next has
// returned without an error. At the end of the bundle it returns [io.EOF]. An item
// that nobody in acl has signed gives an error of type [*UntrustedError], after which
// the next one can be read; all others are final.
func (b *BundleReader) Next(w io.Writer, acl *ACL) (*Info, error) {
	if b.err != nil {
		return nil, b.err
	}
	info, sig, err := b.next(w)
	if err != nil {
		if err != io.EOF {
			err = fmt.Errorf("read bundle: %w", err)
		}
		b.err = err
		return nil, err
	}
	if reason, detail := distrust(sig, Hash(b.sum.Sum(nil)), acl); reason != 0 {
		return nil, &UntrustedError{StorePath: info.StorePath, Reason: reason, Detail: detail}
	}
	return info, nil
}

// distrust checks a signature in the order of the checks of a narinfo.
func distrust(text string, hash Hash, acl *ACL) (Reason, error) {
	if text == "" {
		return Unsigned, nil
	}
	sig, err := ParseSignature([]byte(text))
	switch {
	case err != nil:
		return CorruptSignature, err
	case !acl.Authorized(sig.Key):
		return UnauthorizedKey, nil
	case sig.Hash != hash:
		return SignedHashMismatch, nil
	}
	if err := sig.Verify(); err != nil {
		return InvalidSignature, err
	}
	return 0, nil
}

// next reads an item and the text of its signature.
func (b *BundleReader) next(w io.Writer) (*Info, string, error) {
	b.sum = sha256.New()
	more, err := b.number(nil)
	if err != nil {
		return nil, "", err
	}
	switch more {
	case 0:
		return nil, "", io.EOF
	case 1:
	default:
		return nil, "", fmt.Errorf("%d where an item or the end should be", more)
	}
	info, err := b.archive(w)
	if err != nil {
		return nil, "", err
	}
	if err := b.meta(info); err != nil {
		return nil, "", err
	}
	signed, err := b.number(nil)
	if err != nil || signed == 0 {
		return info, "", err
	}
	sig, err := b.str(nil, maxBundleSignature)
	return info, sig, err
}

// archive passes an archive on while it is parsed, which is how its end is found.
func (b *BundleReader) archive(w io.Writer) (*Info, error) {
	sum := sha256.New()
	plain := &countingWriter{w: io.MultiWriter(w, sum, b.sum)}
	r := nar.NewReader(io.TeeReader(b.r, plain))
	for {
		_, err := r.Next()
		if err == io.EOF {
			return &Info{NarHash: Hash(sum.Sum(nil)), NarSize: plain.n}, nil
		}
		if err != nil {
			return nil, err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return nil, err
		}
	}
}

// meta reads what is signed along with an archive.
func (b *BundleReader) meta(info *Info) error {
	magic, err := b.number(b.sum)
	if err != nil {
		return err
	}
	if magic != bundleMagic {
		return fmt.Errorf("%#x where %#x should be", magic, bundleMagic)
	}
	if info.StorePath, err = b.path(); err != nil {
		return err
	}
	refs, err := b.number(b.sum)
	if err != nil {
		return err
	}
	if refs > maxBundleRefs {
		return fmt.Errorf("%d references", refs)
	}
	for range refs {
		ref, err := b.path()
		if err != nil {
			return err
		}
		info.References = append(info.References, ref)
	}
	deriver, err := b.str(b.sum, len(StoreDir)+1+maxBase)
	if err != nil || deriver == "" {
		return err
	}
	info.Deriver, err = ParseStorePath(deriver)
	return err
}

func (b *BundleReader) path() (StorePath, error) {
	s, err := b.str(b.sum, len(StoreDir)+1+maxBase)
	if err != nil {
		return "", err
	}
	return ParseStorePath(s)
}

// number reads a number, and adds it to sum unless that is nil.
func (b *BundleReader) number(sum hash.Hash) (uint64, error) {
	var buf [8]byte
	if _, err := io.ReadFull(b.r, buf[:]); err != nil {
		return 0, cut(err)
	}
	if sum != nil {
		sum.Write(buf[:])
	}
	return binary.LittleEndian.Uint64(buf[:]), nil
}

func (b *BundleReader) str(sum hash.Hash, limit int) (string, error) {
	n, err := b.number(sum)
	if err != nil {
		return "", err
	}
	if n > uint64(limit) {
		return "", fmt.Errorf("string of %d bytes, more than %d", n, limit)
	}
	buf := make([]byte, (n+7)&^7)
	if _, err := io.ReadFull(b.r, buf); err != nil {
		return "", cut(err)
	}
	for _, pad := range buf[n:] {
		if pad != 0 {
			return "", errors.New("padding is not zero")
		}
	}
	if sum != nil {
		sum.Write(buf)
	}
	return string(buf[:n]), nil
}

// cut is err where a bundle cannot end.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
