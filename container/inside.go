package container

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// TCP passes when an address, "host:port", accepts a connection.
type TCP struct {
	Address string `json:"address"` // ${NAME} in it is the setting of that name
	// Inside connects from within the container, with what its names mean there;
	// otherwise from this machine.
	Inside bool `json:"inside,omitempty"`
}

// String returns "tcp ADDRESS".
func (p TCP) String() string { return "tcp " + p.Address }

// Check implements [Probe].
func (p TCP) Check(ctx context.Context, in *Instance, _ any) (any, error) {
	dial := new(net.Dialer).DialContext
	if p.Inside {
		dial = dialerIn(in.Process)
	}
	conn, err := dial(ctx, "tcp", p.Address)
	if err != nil {
		return nil, err
	}
	return nil, conn.Close()
}

// Unix passes when a Unix socket of the container accepts a connection: of a service,
// or of the host's database in a directory that is mounted.
type Unix struct {
	Path string `json:"path"` // in the container
}

// String returns "unix PATH".
func (p Unix) String() string { return "unix " + p.Path }

// Check implements [Probe].
func (p Unix) Check(ctx context.Context, in *Instance, _ any) (any, error) {
	conn, err := dialInRoot(ctx, in.Process, p.Path)
	if err != nil {
		return nil, err
	}
	return nil, conn.Close()
}

// TLS passes when somebody outside can be reached from within the container over TLS, and
// the certificates that the container trusts vouch for them.
type TLS struct {
	Address string `json:"address"` // host:port; ${NAME} in it is the setting of that name
	// Certificates is the file of the container with the authorities it trusts, in PEM;
	// empty means /etc/ssl/certs/ca-certificates.crt, which a Guix System has when the package
	// nss-certs is in it.
	Certificates string `json:"certificates,omitempty"`
	// ValidFor is how long the certificate must remain valid; 0 means just now.
	ValidFor time.Duration `json:"valid_for,omitempty"`
}

// String returns "tls ADDRESS".
func (p TLS) String() string { return "tls " + p.Address }

// Check implements [Probe].
func (p TLS) Check(ctx context.Context, in *Instance, _ any) (any, error) {
	host, _, err := net.SplitHostPort(p.Address)
	if err != nil {
		return nil, err
	}
	roots, err := certificatesIn(in.Process, p.Certificates)
	if err != nil {
		return nil, err
	}
	raw, err := dialerIn(in.Process)(ctx, "tcp", p.Address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: host})
	defer conn.Close()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	until := conn.ConnectionState().PeerCertificates[0].NotAfter
	if left := time.Until(until); left < p.ValidFor {
		return nil, fmt.Errorf("the certificate is valid until %s only", until.Format(time.RFC3339))
	}
	return nil, nil
}

const defaultCertificates = "/etc/ssl/certs/ca-certificates.crt"

// certificatesIn returns the authorities that a container trusts; name may be empty.
func certificatesIn(p Process, name string) (*x509.CertPool, error) {
	if name == "" {
		name = defaultCertificates
	}
	fd, err := openInRoot(p, name, unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the container trusts nobody: it has no %s (is nss-certs among its packages?)", name)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 16<<20))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("the container trusts nobody: there is no certificate in %s", name)
	}
	return roots, nil
}

// dialerIn returns a function that connects from within the network of process p, where
// names mean what they mean there.
func dialerIn(p Process) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		addresses := []string{host}
		if net.ParseIP(host) == nil {
			if addresses, _, err = lookupIn(ctx, p, host); err != nil {
				return nil, err
			}
		}
		var errs []error
		for _, ip := range addresses {
			conn, err := dialIn(ctx, p, network, net.JoinHostPort(ip, port))
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
}

// dialIn connects to an address that is not a name.
func dialIn(ctx context.Context, p Process, network, address string) (conn net.Conn, err error) {
	err = inNetwork(p, func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// networkNamespace opens the network namespace of the process.
func (p Process) networkNamespace() (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", p.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open network of process %d: %w", p.PID, err)
	}
	if !p.Alive() { // the pid may have been somebody else's
		unix.Close(fd)
		return -1, errGone
	}
	return fd, nil
}

// DNS passes when a name can be resolved in the container as its services do it: with
// its C library, its resolv.conf, hosts and name service cache.
type DNS struct {
	Name string `json:"name"` // ${NAME} in it is the setting of that name
	// Within is the latency budget of one look-up; 0 means the schedule's Timeout.
	Within time.Duration `json:"within,omitempty"`
}

// String returns "dns NAME".
func (p DNS) String() string { return "dns " + p.Name }

// Check implements [Probe].
func (p DNS) Check(ctx context.Context, in *Instance, _ any) (any, error) {
	_, took, err := lookupIn(ctx, in.Process, p.Name)
	if err != nil {
		return nil, err
	}
	return nil, within(p.Within, took)
}

// lookupIn resolves a name in a container. The Guile that runs its shepherd does it: that is
// there in each, and any other program might not be. took is the look-up's own time.
func lookupIn(ctx context.Context, p Process, name string) (addresses []string, took time.Duration, err error) {
	var out strings.Builder
	var complaint tail
	status, err := enter(ctx, p, Stdio{Out: &out, Err: &complaint}, "/proc/1/exe", "-c", lookupProgram(name).String())
	if err != nil {
		return nil, 0, err
	}
	if status != 0 {
		return nil, 0, fmt.Errorf("look up %s in the container: %s", name, strings.TrimSpace(string(complaint)))
	}
	var microseconds int64
	lines := strings.Fields(out.String())
	if len(lines) < 2 {
		return nil, 0, fmt.Errorf("look up %s in the container: no address", name)
	}
	if _, err := fmt.Sscan(lines[0], &microseconds); err != nil {
		return nil, 0, fmt.Errorf("look up %s in the container: %q is not a time", name, lines[0])
	}
	return lines[1:], time.Duration(microseconds) * time.Microsecond, nil
}

// lookupProgram prints how many microseconds it takes to look a name up, and its addresses.
func lookupProgram(name string) sexp.Value {
	s := func(name string) sexp.Value { return sexp.Symbol(name) }
	call := sexp.L
	now := call(s("get-internal-real-time"))
	took := call(s("quotient"), call(s("*"), sexp.Int(1_000_000), call(s("-"), now, s("since"))), s("internal-time-units-per-second"))
	line := func(v sexp.Value) sexp.Value { return call(s("begin"), call(s("display"), v), call(s("newline"))) }
	socket := call(s("addrinfo:addr"), s("info"))
	address := call(s("inet-ntop"), call(s("sockaddr:fam"), socket), call(s("sockaddr:addr"), socket))
	look := call(s("let*"), call(
		call(s("since"), now),
		call(s("found"), call(s("getaddrinfo"), sexp.String(name), sexp.Bool(false), sexp.Int(0), s("AF_UNSPEC"), s("SOCK_STREAM")))),
		line(took),
		call(s("for-each"), call(s("lambda"), call(s("info")), line(address)), s("found")))
	complain := call(s("lambda"), call(s("key"), s("code")),
		call(s("display"), call(s("gai-strerror"), s("code")), call(s("current-error-port"))), call(s("exit"), sexp.Int(1)))
	return call(s("catch"), sexp.Quote(s("getaddrinfo-error")), call(s("lambda"), call(), look), complain)
}
