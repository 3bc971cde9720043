package channel

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
)

// packs are the packs of a repository, open for reading. What go-git keeps of one, its whole
// index and a map of that, takes a multiple of what authenticating the commits in it does.
type packs struct {
	dir   billy.Filesystem
	cache cache.Object
	all   []*pack
}

// A pack is one that has been opened.
type pack struct {
	index *packIndex
	file  billy.File
	*packfile.Packfile
	read int // objects, since the Packfile was made
}

// maxPacks limits how many packs are open at once; each takes two files.
const maxPacks = 128

// openPacks opens what packs there are, the largest if there are many, and leaves out those that
// it cannot read: go-git may.
func openPacks(dir string, objects cache.Object) *packs {
	p := &packs{dir: osfs.New(dir), cache: objects}
	names, _ := fs.Glob(os.DirFS(dir), "objects/pack/pack-*.idx")
	if len(names) > maxPacks {
		size := func(name string) int64 { return fileSize(filepath.Join(dir, name)) }
		slices.SortFunc(names, func(a, b string) int { return cmp.Compare(size(b), size(a)) })
		names = names[:maxPacks]
	}
	for _, name := range names {
		if one, err := p.open(strings.TrimSuffix(name, ".idx")); err == nil {
			p.all = append(p.all, one)
		}
	}
	return p
}

func fileSize(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

func (p *packs) open(name string) (*pack, error) {
	file, err := p.dir.Open(name + ".idx")
	if err != nil {
		return nil, err
	}
	index, err := readPackIndex(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	data, err := p.dir.Open(name + ".pack")
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &pack{index: index, file: data}, nil
}

func (p *packs) close() (err error) {
	for _, one := range p.all {
		err = errors.Join(err, one.file.Close(), one.index.file.Close())
	}
	p.all = nil
	return err
}

// object returns an object, or plumbing.ErrObjectNotFound when none of the packs has it.
func (p *packs) object(id objectID) (plumbing.EncodedObject, error) {
	for _, one := range p.all {
		o, err := p.get(one, id)
		if err == nil || !errors.Is(err, plumbing.ErrObjectNotFound) {
			return o, err
		}
	}
	return nil, plumbing.ErrObjectNotFound
}

// get reads an object of one pack. A Packfile remembers the type of everything it has seen: now
// and then it is made anew.
func (p *packs) get(one *pack, id objectID) (plumbing.EncodedObject, error) {
	const many = 4096
	if one.read++; one.Packfile == nil || one.read > many {
		one.Packfile = packfile.NewPackfileWithCache(one.index, p.dir, one.file, p.cache, maxObject)
		one.read = 0
	}
	return one.Get(plumbing.Hash(id))
}

// A packIndex is the index of a pack (git's version 2 of it), most of which stays on disk.
type packIndex struct {
	file   billy.File
	fanout [256]uint32 // how many names begin with a byte up to this one
	// byOffset has the place in the pack and in the index of every object, in the upper and the
	// lower half, sorted. It is made when it is asked for.
	byOffset []uint64
	scratch  [few * len(objectID{})]byte
}

// few names are read at once rather than halved further.
const few = 64

const (
	indexNames = 8 + 256*4 // where they begin
	hashSize   = len(objectID{})
)

var errPackIndex = errors.New("the index of a pack is not understood")

func readPackIndex(file billy.File) (*packIndex, error) {
	x := &packIndex{file: file}
	head := make([]byte, indexNames)
	if _, err := file.ReadAt(head, 0); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, []byte("\xfftOc\x00\x00\x00\x02")) {
		return nil, errPackIndex
	}
	for i := range x.fanout {
		x.fanout[i] = binary.BigEndian.Uint32(head[8+4*i:])
		if i > 0 && x.fanout[i] < x.fanout[i-1] {
			return nil, errPackIndex
		}
	}
	// Places beyond 2 GiB, and ids of SHA-256, make it longer than this.
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil || end != x.offsets()+4*int64(x.count())+2*int64(hashSize) {
		return nil, errors.Join(errPackIndex, err)
	}
	return x, nil
}

func (x *packIndex) count() uint32  { return x.fanout[255] }
func (x *packIndex) offsets() int64 { return indexNames + int64(x.count())*int64(hashSize+4) }

// find returns the place of a name in the index.
func (x *packIndex) find(h plumbing.Hash) (uint32, error) {
	from, to := uint32(0), x.fanout[h[0]]
	if h[0] > 0 {
		from = x.fanout[h[0]-1]
	}
	names := x.scratch[:]
	for to-from > few {
		middle := from + (to-from)/2
		name := names[:hashSize]
		if err := x.names(name, middle); err != nil {
			return 0, err
		}
		if bytes.Compare(name, h[:]) <= 0 {
			from = middle
		} else {
			to = middle
		}
	}
	read := names[:int(to-from)*hashSize]
	if err := x.names(read, from); err != nil {
		return 0, err
	}
	for i := from; i < to; i, read = i+1, read[hashSize:] {
		if bytes.Equal(read[:hashSize], h[:]) {
			return i, nil
		}
	}
	return 0, plumbing.ErrObjectNotFound
}

func (x *packIndex) names(to []byte, from uint32) error {
	_, err := x.file.ReadAt(to, indexNames+int64(from)*int64(hashSize))
	return err
}

// FindOffset returns where an object is in the pack.
func (x *packIndex) FindOffset(h plumbing.Hash) (int64, error) {
	i, err := x.find(h)
	if err != nil {
		return 0, err
	}
	raw := x.scratch[:4]
	if _, err := x.file.ReadAt(raw, x.offsets()+4*int64(i)); err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint32(raw)), nil
}

// FindHash returns what is at that place in the pack.
func (x *packIndex) FindHash(at int64) (h plumbing.Hash, err error) {
	if x.byOffset == nil {
		if err := x.sort(); err != nil {
			return h, err
		}
	}
	i, _ := slices.BinarySearch(x.byOffset, uint64(at)<<32)
	if i == len(x.byOffset) || int64(x.byOffset[i]>>32) != at {
		return h, plumbing.ErrObjectNotFound
	}
	name := x.scratch[:hashSize]
	err = x.names(name, uint32(x.byOffset[i]))
	return plumbing.Hash(name), err
}

func (x *packIndex) sort() error {
	raw := make([]byte, 4*int(x.count()))
	if _, err := x.file.ReadAt(raw, x.offsets()); err != nil {
		return err
	}
	x.byOffset = make([]uint64, x.count())
	for i := range x.byOffset {
		x.byOffset[i] = uint64(binary.BigEndian.Uint32(raw[4*i:]))<<32 | uint64(i)
	}
	slices.Sort(x.byOffset)
	return nil
}

// Contains reports whether the pack has an object.
func (x *packIndex) Contains(h plumbing.Hash) (bool, error) {
	_, err := x.find(h)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Count returns how many objects there are.
func (x *packIndex) Count() (int64, error) { return int64(x.count()), nil }

// The rest of [idxfile.Index] is not for reading objects by their names.

// FindCRC32 is not supported.
func (x *packIndex) FindCRC32(plumbing.Hash) (uint32, error) { return 0, errors.ErrUnsupported }

// Entries is not supported.
func (x *packIndex) Entries() (idxfile.EntryIter, error) { return nil, errors.ErrUnsupported }

// EntriesByOffset is not supported.
func (x *packIndex) EntriesByOffset() (idxfile.EntryIter, error) {
	return nil, errors.ErrUnsupported
}
