// Command load measures servers of substitutes: it is what .ci/bench-substitute
// compares them with.
//
//	load items [DATABASE]                   lists what is in the store: hash part, size, name
//	load narinfo URL CONNECTIONS DEPTH      requests narinfos for some seconds
//	load nar URL METHOD CONNECTIONS         downloads all archives once
//	load warm URL [DIRECTORY]               requests narinfos, and waits until the server's cache has all
//	load once URL                           requests each narinfo once
//	load stall URL METHOD CONNECTIONS       requests archives, and reads nothing
//
// Items come on standard input, as "load items" prints them; results go to standard output, one
// line each: NAME VALUE.
package main

import (
	"bufio"
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/genenetwork/guixci/substitute"
	"github.com/genenetwork/guixci/substitute/storedb"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(3)
	}
}

func run(args []string) error {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(arg(i))
		return max(n, 1)
	}
	if arg(0) == "items" {
		return list(arg(1))
	}
	items, err := readItems(os.Stdin)
	if err != nil {
		return err
	}
	switch arg(0) {
	case "narinfo":
		return narinfos(arg(1), items, number(2), number(3))
	case "nar":
		return nars(arg(1), arg(2), items, number(3))
	case "warm":
		return warm(arg(1), arg(2), items)
	case "once":
		return once(arg(1), items)
	case "stall":
		return stall(arg(1), arg(2), items, number(3))
	}
	return fmt.Errorf("unknown command %q", arg(0))
}

type item struct {
	hash, name string
	size       int64
}

// list prints the valid items of a store.
func list(path string) error {
	db, err := storedb.Open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	if path == "" {
		path = storedb.DefaultPath
	}
	raw, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		return err
	}
	defer raw.Close()
	rows, err := raw.Query("SELECT path, narSize FROM ValidPaths ORDER BY path")
	if err != nil {
		return err
	}
	defer rows.Close()
	out := bufio.NewWriter(os.Stdout)
	for rows.Next() {
		var path string
		var size int64
		if err := rows.Scan(&path, &size); err != nil {
			return err
		}
		p, err := substitute.ParseStorePath(path)
		if _, gone := os.Lstat(path); err == nil && gone == nil {
			fmt.Fprintln(out, p.Hash(), size, p.Name())
		}
	}
	return out.Flush()
}

func readItems(in io.Reader) (items []item, err error) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var i item
		if _, err := fmt.Sscan(lines.Text(), &i.hash, &i.size, &i.name); err != nil {
			return nil, err
		}
		items = append(items, i)
	}
	return items, lines.Err()
}

// duration is how long narinfos are requested.
const duration = 4 * time.Second

// narinfos requests random narinfos over some connections, depth at a time on each.
func narinfos(url string, items []item, connections, depth int) error {
	var mu sync.Mutex // guards took and failed
	var took []time.Duration
	var failed error
	var all sync.WaitGroup
	end := time.Now().Add(duration)
	for range connections {
		all.Go(func() {
			mine, err := hammer(url, items, depth, end)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			if err != nil {
				failed = err
			}
		})
	}
	all.Wait()
	if failed != nil && len(took) == 0 {
		return failed
	}
	slices.Sort(took)
	fmt.Printf("rate %.0f\np50 %.0f\np99 %.0f\n", float64(len(took)*depth)/duration.Seconds(),
		float64(took[len(took)/2].Microseconds()), float64(took[len(took)*99/100].Microseconds()))
	return nil
}

// hammer uses one connection, and a new one when the server closes it.
func hammer(address string, items []item, depth int, end time.Time) (took []time.Duration, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	requests := make([][]byte, len(items))
	for i, it := range items {
		requests[i] = request(it, u.Host)
	}
	for time.Now().Before(end) {
		c, err := net.Dial("tcp", u.Host)
		if err != nil {
			return took, err
		}
		c.SetDeadline(end.Add(5 * time.Second))
		in := bufio.NewReaderSize(c, 256<<10)
		for err == nil && time.Now().Before(end) {
			start := time.Now()
			if err = round(c, in, requests, depth); err == nil {
				took = append(took, time.Since(start))
			}
		}
		c.Close()
		if len(took) == 0 {
			return nil, err
		}
	}
	return took, nil
}

// round requests random narinfos.
func round(c net.Conn, in *bufio.Reader, requests [][]byte, depth int) error {
	var batch []byte
	for range depth {
		batch = append(batch, requests[rand.IntN(len(requests))]...)
	}
	return exchange(c, in, batch, depth)
}

// exchange writes requests and reads the responses.
func exchange(c net.Conn, in *bufio.Reader, batch []byte, depth int) error {
	written := make(chan error, 1)
	if depth > 1 {
		go func() { _, err := c.Write(batch); written <- err }()
	} else {
		_, err := c.Write(batch)
		written <- err
	}
	for range depth {
		if err := skipResponse(in); err != nil {
			return err
		}
	}
	return <-written
}

// skipResponse reads a response without understanding more than its length,
// so that the client takes little of the processors.
func skipResponse(in *bufio.Reader) error {
	length := -1
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if len(line) > 16 && (line[0]|0x20) == 'c' && bytes.EqualFold(line[:15], []byte("content-length:")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[15:]))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("response without a length")
	}
	_, err := in.Discard(length)
	return err
}

// nars downloads each archive once.
func nars(address, method string, items []item, connections int) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections, DisableCompression: true}}
	queue := make(chan item)
	var mu sync.Mutex // guards the rest
	var plain, wire int64
	var failed error
	var all sync.WaitGroup
	start := time.Now()
	for range connections {
		all.Go(func() {
			for it := range queue {
				n, err := download(client, address, method, it)
				mu.Lock()
				plain, wire = plain+it.size, wire+n
				if err != nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	for _, it := range items {
		queue <- it
	}
	close(queue)
	all.Wait()
	if failed != nil {
		return failed
	}
	took := time.Since(start).Seconds()
	fmt.Printf("MB/s %.1f\nwire-MB/s %.1f\nbytes %d\nitems/s %.1f\nseconds %.3f\n", float64(plain)/1e6/took, float64(wire)/1e6/took, wire, float64(len(items))/took, took)
	return nil
}

func download(client *http.Client, address, method string, it item) (int64, error) {
	res, err := client.Get(address + archive(method, it))
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: status %s", it.name, res.Status)
	}
	return io.Copy(io.Discard, res.Body)
}

// archive is the path of an item's archive.
func archive(method string, it item) string {
	if method == "none" {
		method = ""
	} else {
		method += "/"
	}
	return "/nar/" + method + it.hash + "-" + url.PathEscape(it.name)
}

// warm requests all narinfos, and tells how long it took until they said sizes. If it knows the directory where they
// will be it looks there first: a server that is asked again while it bakes may sign another narinfo each time.
func warm(address, dir string, items []item) error {
	start := time.Now()
	client := &http.Client{Timeout: time.Minute}
	var total int64
	for _, it := range items {
		total += it.size
		if _, err := baked(client, address, it); err != nil {
			return err
		}
	}
	late := start.Add(patience(total))
	if dir != "" {
		if err := awaitAll(items, late, func(it item) (bool, error) { return kept(dir, it), nil }); err != nil {
			return err
		}
	}
	took := time.Since(start)
	waited := false
	err := awaitAll(items, late, func(it item) (bool, error) {
		ok, err := baked(client, address, it)
		if waited {
			took = time.Since(start)
		}
		waited = !ok
		return ok, err
	})
	if err != nil {
		return err
	}
	fmt.Printf("MB/s %.1f\nseconds %.2f\n", float64(total)/1e6/took.Seconds(), took.Seconds())
	return nil
}

// patience is for how long to wait until that many bytes are baked: a server that bakes less than a megabyte in a
// second has stopped.
func patience(total int64) time.Duration {
	return time.Minute + time.Duration(total)*time.Microsecond
}

// awaitAll returns when all items are ready, in turn, or it is too late.
func awaitAll(items []item, late time.Time, ready func(item) (bool, error)) error {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for i, it := range items {
		for {
			ok, err := ready(it)
			if err != nil {
				return err
			}
			if ok {
				break
			}
			if time.Now().After(late) {
				return fmt.Errorf("%s-%s is not baked, after %d that are, and %d more were to be", it.hash, it.name, i, len(items)-i-1)
			}
			<-look.C
		}
	}
	return nil
}

// kept reports whether a narinfo is in a cache directory, where guixci-publish or where guix publish puts it.
func kept(dir string, it item) bool {
	names := []string{it.hash + ".narinfo"}
	for _, method := range []string{"zstd", "gzip", "none"} {
		names = append(names, method+"/"+it.hash+"-"+it.name+".narinfo")
	}
	return slices.ContainsFunc(names, func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	})
}

// once requests each narinfo, all on one connection, as "guix substitute" does.
func once(address string, items []item) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		return err
	}
	defer c.Close()
	in := bufio.NewReaderSize(c, 64<<10)
	start := time.Now()
	for some := range slices.Chunk(items, 500) {
		var batch []byte
		for _, it := range some {
			batch = append(batch, request(it, u.Host)...)
		}
		if err := exchange(c, in, batch, len(some)); err != nil {
			return err
		}
	}
	fmt.Printf("us %.1f\n", time.Since(start).Seconds()*1e6/float64(len(items)))
	return nil
}

func request(it item, host string) []byte {
	return fmt.Appendf(nil, "GET /%s.narinfo HTTP/1.1\r\nHost: %s\r\nUser-Agent: GNU Guile\r\n\r\n", it.hash, host)
}

func baked(client *http.Client, address string, it item) (bool, error) {
	res, err := client.Get(address + "/" + it.hash + ".narinfo")
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return strings.Contains(string(text), "FileSize: "), err
}

// stall holds connections on which answers wait, until it is killed.
func stall(address, method string, items []item, connections int) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	for i := range connections {
		c, err := net.Dial("tcp", u.Host)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			return err
		}
		it := items[i%len(items)]
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", archive(method, it), u.Host); err != nil {
			return err
		}
	}
	time.Sleep(time.Hour)
	return nil
}
