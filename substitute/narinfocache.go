package substitute

import "sync"

// cacheBytes bounds each of the two halves of a narinfoCache, by an estimate:
// a narinfo of 800 bytes counts as 2.6 KB, so that a half has some 3,000 of them.
const cacheBytes = 8 << 20

// A narinfoCache keeps narinfos that were signed, by hash part. Nobody is told
// from it that an item exists: the Source is asked each time, and what it says
// must be what was signed.
//
// It has two halves: what is used is moved to the young one, and when that is
// full it becomes the old one, whose content is forgotten.
type narinfoCache struct {
	mu         sync.Mutex // guards what follows
	young, old map[string]*NarInfo
	size       int // of young, in bytes
}

// get returns the narinfo made from what equals info, or nil.
func (c *narinfoCache) get(info *Info) *NarInfo {
	key := info.StorePath.Hash()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.young[key]
	if n == nil {
		if n = c.old[key]; n != nil {
			c.add(key, n)
		}
	}
	if n == nil || n.Deriver != info.Deriver || !n.equivalent(info) {
		return nil
	}
	return n
}

func (c *narinfoCache) put(n *NarInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(n.StorePath.Hash(), n)
}

func (c *narinfoCache) add(key string, n *NarInfo) {
	// The signature and the parsed fields take about as much as the text again.
	size := 2*len(n.text) + 1024
	if c.young == nil || c.size+size > cacheBytes {
		c.old, c.young, c.size = c.young, make(map[string]*NarInfo), 0
	}
	c.young[key] = n
	c.size += size
}
