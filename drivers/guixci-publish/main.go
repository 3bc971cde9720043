// Command guixci-publish offers the store of this machine to others, in place of
// "guix publish", whose options it understands:
//
//	guixci-publish --user=guix-publish --port=8080 -C zstd:3 --cache=/var/cache/publish
//	guixci-publish export /srv/substitutes /gnu/store/…-hello-2.12.1
//
// See package substitute for what it does better.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/genenetwork/guixci/internal/cli"
	"github.com/genenetwork/guixci/substitute"
)

const program = "guixci-publish"

func main() { cli.Main(run) }

const usage = `Usage: guixci-publish [OPTION]...
       guixci-publish [OPTION]... export DIRECTORY ITEM...
       guixci-publish [OPTION]... --generate-key

Offer the store over HTTP, signed, to every Guix that has authorized the key.
"export" writes ITEMs, and all they refer to, to a DIRECTORY that any web server can serve. It heeds the
options about compression, workers, keys and the database.

  -p, --port=PORT        listen on PORT (8080)
      --listen=HOST      listen on the address of HOST (0.0.0.0)
  -u, --user=USER        change to USER once the key is read and the port taken
  -C, --compression[=METHOD[:LEVEL]]
                         compress by METHOD, gzip, lzip, zstd or none, at LEVEL; may
                         be repeated (zstd:3 and gzip:3)
  -c, --cache=DIRECTORY  keep what was compressed in DIRECTORY
      --cache-size=SIZE  let it have SIZE bytes at most, such as 50G, besides what
                         it must keep for TTL
      --cache-bypass-threshold=SIZE
                         accepted for the sake of service files: nobody ever waits
      --workers=N        let N workers compress for the cache
      --ttl=TTL          announce that answers can be remembered for TTL, such as
                         30d; in the cache, keep for TTL what the store has no more
      --negative-ttl=TTL announce for how long the lack of an item can be remembered
  -a, --advertise        let "guix discover" find us on the local network, by way of
                         Avahi
      --nar-path=PATH    serve archives below PATH (nar)
      --public-key=FILE  the key's public part, beside the other by default
      --private-key=FILE sign with this key (/etc/guix/signing-key.sec)
      --store-database=FILE
                         read the store's database there (/var/guix/db/db.sqlite)
      --generate-key     make the key pair if there is none, show its public part
      --metrics          answer /metrics in the format of Prometheus
      --verbose          say more
  -h, --help             display this help and exit
  -V, --version          display version information and exit
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args)
	if err != nil {
		err = &cli.MisuseError{Err: err}
		cli.Complain(stderr, program, err)
		return cli.ExitCode(err)
	}
	switch {
	case o.help:
		io.WriteString(stdout, usage)
		return cli.OK
	case o.version:
		io.WriteString(stdout, cli.Version(program))
		return cli.OK
	case o.generateKey:
		err = generateKey(o, stdout)
	case len(o.args) > 0 && o.args[0] == "export":
		err = export(ctx, o, stderr)
	case len(o.args) > 0:
		err = &cli.MisuseError{Err: fmt.Errorf("unknown command %q", o.args[0])}
	default:
		err = publish(ctx, o, stderr)
	}
	if err != nil {
		cli.Complain(stderr, program, err)
	}
	return cli.ExitCode(err)
}

func (o *options) logger(stderr io.Writer) *slog.Logger {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
}

// keyFile is where the private key is.
func (o *options) keyFile() string {
	if o.privateKey != "" {
		return o.privateKey
	}
	dir := os.Getenv("GUIX_CONFIGURATION_DIRECTORY")
	if dir == "" {
		dir = "/etc/guix"
	}
	return filepath.Join(dir, "signing-key.sec")
}

// readKey reads the key pair, whose parts must fit.
func (o *options) readKey() (*substitute.PrivateKey, error) {
	key, err := substitute.ReadPrivateKeyFile(o.keyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &cli.UsageError{Err: fmt.Errorf("%w; make a key pair with \"%s --generate-key\"", err, program)}
	}
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	if o.publicKey == "" {
		return key, nil
	}
	public, err := substitute.ReadPublicKeyFile(o.publicKey)
	if err == nil && !public.Equal(key.Public()) {
		err = fmt.Errorf("%q is not the public part of %q", o.publicKey, o.keyFile())
	}
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	return key, nil
}

func generateKey(o *options, stdout io.Writer) error {
	if err := os.MkdirAll(filepath.Dir(o.keyFile()), 0o755); err != nil {
		return &cli.UsageError{Err: err}
	}
	key, err := substitute.EnsureKeyPair(o.keyFile())
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, key.Public().String())
	return err
}

// forExport are the options that export heeds.
var forExport = []string{"compression", "workers", "public-key", "private-key", "secret-key", "store-database", "verbose"}

// export writes a static cache.
func export(ctx context.Context, o *options, stderr io.Writer) error {
	if len(o.args) < 3 {
		return &cli.UsageError{Err: errors.New("export needs a DIRECTORY and at least one ITEM")}
	}
	for _, name := range o.given {
		if !slices.Contains(forExport, name) {
			return &cli.MisuseError{Err: fmt.Errorf("--%s is not for export", name)}
		}
	}
	roots, err := itemsOf(o.args[2:])
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	key, err := o.readKey()
	if err != nil {
		return err
	}
	src, err := openStore(o)
	if err != nil {
		return err
	}
	defer src.Close()
	for _, root := range roots {
		if info, err := src.Info(ctx, root.Hash()); errors.Is(err, substitute.ErrNotFound) || err == nil && info.StorePath != root {
			return &cli.UsageError{Err: fmt.Errorf("%q is not in the store", root)}
		}
	}
	progress := cli.NewProgress(stderr)
	progress.Step("export")
	defer progress.Done()
	count := 0
	exporter := &substitute.Exporter{To: substitute.Directory(o.args[1]), Key: key, Compression: o.compression, Workers: o.workers,
		Done: func(info *substitute.Info) {
			count++
			progress.Detail("%s", info.StorePath.Name())
		}}
	err = exporter.Export(ctx, src, roots...)
	if err == nil { // remove what others left that were killed
		_, err = (&substitute.Cache{Dir: o.args[1]}).Evict(ctx, substitute.EvictOptions{})
	}
	if err == nil {
		items := "items"
		if count == 1 {
			items = "item"
		}
		progress.Line("exported %d %s to %s", count, items, o.args[1])
	}
	return err
}

// itemsOf finds the store items that names lead to, by symbolic links or from within.
func itemsOf(names []string) (items []substitute.StorePath, err error) {
	for _, name := range names {
		target, err := filepath.EvalSymlinks(name)
		if errors.Is(err, fs.ErrNotExist) {
			target, err = name, nil // the database decides whether it exists
		}
		if err != nil {
			return nil, err
		}
		rest, ok := strings.CutPrefix(target, substitute.StoreDir+"/")
		if !ok {
			return nil, fmt.Errorf("%q is not in the store", name)
		}
		base, _, _ := strings.Cut(rest, "/")
		item, err := substitute.ParseStorePath(substitute.StoreDir + "/" + base)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

// listener is the socket that an init system passed on, or a new one.
func listener(o *options) (net.Listener, error) {
	if l, err := passedListener(); l != nil || err != nil {
		return l, err
	}
	network := "tcp"
	if ip, err := netip.ParseAddr(o.listen); err == nil && ip.Is4() {
		network = "tcp4" // else 0.0.0.0 would be all addresses of IPv6, too
	}
	l, err := net.Listen(network, net.JoinHostPort(o.listen, o.port))
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	return l, nil
}
