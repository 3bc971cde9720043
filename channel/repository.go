package channel

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/go-git/go-billy/v5/osfs"
)

// A Repository is one mirror: a bare copy of the branches and tags of a URL.
// Its methods may be called concurrently.
type Repository struct {
	URL     string
	dir     string
	headDir string // where HEAD is
	local   bool   // somebody's own, not a mirror

	mu    sync.Mutex // guards the rest, which go-git does not make safe
	store *filesystem.Storage
	cache cache.Object
	much  bool   // is going to be read
	packs *packs // of a repository from which much is read, once something is
}

// errCorrupt is wrapped by errors that a fresh clone cures.
var errCorrupt = errors.New("the mirror is damaged")

// maxObject limits the bytes of an object that is read.
const maxObject = 64 << 20

func openMirror(url, dir string) *Repository {
	objects := &objectCache{Object: cache.NewObjectLRU(8 * cache.MiByte)}
	options := filesystem.Options{ExclusiveAccess: true, LargeObjectThreshold: maxObject}
	return &Repository{URL: url, dir: dir, headDir: dir, cache: objects,
		store: filesystem.NewStorageWithOptions(osfs.New(dir), objects, options)}
}

// An objectCache keeps few objects. Its like in go-git counts the bytes of objects but not what it
// takes to keep one, which for the small ones of a long history is far more.
type objectCache struct {
	cache.Object
	mu  sync.Mutex // guards put
	put int
}

const maxCachedObjects = 4096

func (c *objectCache) Put(o plumbing.EncodedObject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.put++; c.put > maxCachedObjects {
		c.Clear()
		c.put = 1
	}
	c.Object.Put(o)
}

// forReadingMuch returns the same mirror with files that stay open until it is
// closed, which is several times faster for whole histories, and takes less memory.
func (r *Repository) forReadingMuch() *Repository {
	much := openMirror(r.URL, r.dir)
	much.much = true
	return much
}

func (r *Repository) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.store.Close()
	if r.packs != nil {
		err = errors.Join(err, r.packs.close())
	}
	return err
}

// find returns an object as go-git has it. The caller holds the lock.
func (r *Repository) find(id objectID) (plumbing.EncodedObject, error) {
	if r.much && r.packs == nil {
		r.packs = openPacks(r.dir, r.cache)
	}
	if r.packs != nil {
		if o, err := r.packs.object(id); !errors.Is(err, plumbing.ErrObjectNotFound) {
			return o, err
		}
	}
	return r.store.EncodedObject(plumbing.AnyObject, plumbing.Hash(id))
}

// object returns the bytes of an object after checking that they have that id.
func (r *Repository) object(id objectID, kind plumbing.ObjectType) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o, err := r.find(id)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, fmt.Errorf("read %v %v: %w", kind, id, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("read %v %v: %w: %v", kind, id, errCorrupt, err)
	}
	if o.Type() != kind {
		return nil, fmt.Errorf("read object %v: it is a %v, not a %v", id, o.Type(), kind)
	}
	if o.Size() > maxObject {
		return nil, &AuthError{Commit: id.commit(), Rule: TooLarge,
			Detail: fmt.Sprintf("(a %v) has %d bytes, more than the %d that are read", kind, o.Size(), maxObject)}
	}
	raw, err := readObject(o)
	if err != nil {
		return nil, fmt.Errorf("read %v %v: %w: %v", kind, id, errCorrupt, err)
	}
	return raw, checkID(id, kind, raw)
}

func readObject(o plumbing.EncodedObject) ([]byte, error) {
	in, err := o.Reader()
	if err != nil {
		return nil, err
	}
	raw := make([]byte, o.Size())
	_, err = io.ReadFull(in, raw)
	return raw, errors.Join(err, in.Close())
}

func checkID(id objectID, kind plumbing.ObjectType, raw []byte) error {
	h := sha1.New()
	fmt.Fprintf(h, "%v %d\x00", kind, len(raw))
	h.Write(raw)
	if got := objectID(h.Sum(nil)); got != id {
		return fmt.Errorf("read %v %v: %w: its bytes have the id %v", kind, id, errCorrupt, got)
	}
	return nil
}

// commit reads and parses a commit.
func (r *Repository) commit(id objectID) (*commitObject, error) {
	raw, err := r.object(id, plumbing.CommitObject)
	if err != nil {
		return nil, err
	}
	c, err := parseCommit(raw)
	if err != nil {
		return nil, &malformedError{id: id, msg: err.Error()}
	}
	return c, nil
}

// A malformedError is a commit that no git writes.
type malformedError struct {
	id  objectID
	msg string
}

func (e *malformedError) Error() string { return fmt.Sprintf("read commit %v: %s", e.id, e.msg) }

// tree reads and parses a tree.
func (r *Repository) tree(id objectID) ([]treeEntry, error) {
	raw, err := r.part(id, plumbing.TreeObject)
	if err != nil {
		return nil, err
	}
	return parseTree(raw)
}

// part reads an object that another one refers to: it must be there.
func (r *Repository) part(id objectID, kind plumbing.ObjectType) ([]byte, error) {
	raw, err := r.object(id, kind)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("read %v %v: %w: it is missing", kind, id, errCorrupt)
	}
	return raw, err
}

// blob reads the content of a file.
func (r *Repository) blob(id objectID) ([]byte, error) {
	return r.part(id, plumbing.BlobObject)
}

// entry finds a path in a tree; ok is false when it is not there.
func (r *Repository) entry(tree objectID, path string) (e treeEntry, ok bool, err error) {
	raw, err := r.part(tree, plumbing.TreeObject)
	if err != nil {
		return e, false, err
	}
	first, rest, deeper := strings.Cut(path, "/")
	e, ok, err = findEntry(raw, first)
	switch {
	case err != nil || !ok || !deeper:
		return e, ok, err
	case e.isDir():
		return r.entry(e.id, rest)
	}
	return treeEntry{}, false, nil
}

// File returns the content of a file at a commit.
// When the commit or the file is not there, errors.Is(err, fs.ErrNotExist).
func (r *Repository) File(c Commit, path string) ([]byte, error) {
	id, err := c.id()
	if err != nil {
		return nil, err
	}
	object, err := r.commit(id)
	if err != nil {
		return nil, err
	}
	e, ok, err := r.entry(object.tree, path)
	if err != nil {
		return nil, err
	}
	if !ok || e.isDir() || e.isSubmodule() {
		return nil, fmt.Errorf("read %s of commit %s: %w", path, c.Short(), fs.ErrNotExist)
	}
	return r.blob(e.id)
}

// Metadata returns what .guix-channel says at a commit, or the defaults.
func (r *Repository) Metadata(c Commit) (*Metadata, error) {
	text, err := r.File(c, metadataName)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := r.commitOf(c); err != nil {
			return nil, err
		}
		return DefaultMetadata(), nil
	}
	if err != nil {
		return nil, err
	}
	return ReadMetadata(r.metadataName(c), text)
}

const metadataName = ".guix-channel"

// metadataName is what the file of a commit is called in messages.
func (r *Repository) metadataName(c Commit) string {
	return fmt.Sprintf("%s@%s:%s", r.URL, c.Short(), metadataName)
}

func (r *Repository) commitOf(c Commit) (*commitObject, error) {
	id, err := c.id()
	if err != nil {
		return nil, err
	}
	return r.commit(id)
}

// has reports whether the mirror has a commit, well formed or not.
func (r *Repository) has(c Commit) bool {
	id, err := c.id()
	if err == nil {
		_, err = r.object(id, plumbing.CommitObject)
	}
	return err == nil || isRefused(err)
}

// isRefused reports whether an object is there but beyond a limit.
func isRefused(err error) bool {
	var refused *AuthError
	return errors.As(err, &refused)
}
