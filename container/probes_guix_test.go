package container

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/genenetwork/guixci/internal/guixbox/guixtest"
)

// checkProbe checks a probe once: it passes if says is empty, else it fails and says that.
func checkProbe(t *testing.T, in *Instance, p Probe, says string) {
	t.Helper()
	checkProbeWithin(t, in, plenty, p, says)
}

// checkProbeWithin is checkProbe with a limit.
func checkProbeWithin(t *testing.T, in *Instance, limit time.Duration, p Probe, says string) {
	t.Helper()
	a := &awaiting{probes: Probes{p}, schedule: Schedule{Timeout: limit}.withDefaults(), memory: make([]any, 1)}
	err := a.try(t.Context(), in, 0)
	if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
		t.Errorf("probe %v: error %v, want %q", p, err, says)
	}
}

// Each kind of probe on a real container, passing and failing.
func TestRealProbes(t *testing.T) {
	t.Parallel()
	script := samples(t)["told"]
	d, url := realDeployment(t)
	outside := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer outside.Close()
	certificates := t.TempDir()
	writePEM(t, filepath.Join(certificates, "ours.pem"), outside.Certificate().Raw)
	writePEM(t, filepath.Join(certificates, "others.pem"), someAuthority(t))
	d.Exposes = append(d.Exposes, Mount{Source: certificates, Target: "/srv/certificates"})
	in := mustBring(t, d, script)
	address := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/")
	_, port, _ := net.SplitHostPort(address)
	closed := fmt.Sprintf("127.0.0.1:%d", guixtest.FreePort(t))
	tlsAddress := outside.Listener.Addr().String()

	database := listenIn(t, d.Shares[0].Source).(*net.UnixListener)
	database.SetUnlinkOnClose(false)
	for _, c := range []struct {
		probe Probe
		says  string
	}{
		{Alive{}, ""},
		{AllServices{}, ""},
		{Services{[]string{"web", "counter", "fickle"}}, ""},
		{Services{[]string{"nonsense"}}, "no service nonsense"},
		{TCP{Address: address}, ""},
		{TCP{Address: closed}, "connection refused"},
		{TCP{Address: "localhost:" + port, Inside: true}, ""},
		{TCP{Address: closed, Inside: true}, "connection refused"},
		{TCP{Address: "nowhere.invalid:80", Inside: true}, "look up nowhere.invalid in the container"},
		{Unix{"/srv/state/socket"}, ""},
		{Unix{"/srv/state/none"}, "no such file"},
		{Command{[]string{"/bin/sh", "-c", "test -d /srv/state"}}, ""},
		{Command{[]string{"/bin/sh", "-c", "echo the schema is old; exit 3"}}, "status 3: the schema is old"},
		{Command{[]string{"no-such-program"}}, "status 127"},
		{DNS{Name: "localhost"}, ""},
		{DNS{Name: "localhost", Within: time.Nanosecond}, "over the budget of 1ns"},
		{DNS{Name: "nowhere.invalid"}, "look up nowhere.invalid in the container"},
		{TLS{Address: tlsAddress, Certificates: "/srv/certificates/ours.pem"}, ""},
		{TLS{Address: tlsAddress, Certificates: "/srv/certificates/others.pem"}, "unknown authority"},
		{TLS{Address: tlsAddress, Certificates: "/srv/certificates/ours.pem", ValidFor: 1 << 62}, "is valid until 20"},
		{TLS{Address: strings.Replace(tlsAddress, "127.0.0.1", "localhost", 1), Certificates: "/srv/certificates/ours.pem"}, "not localhost"},
		{TLS{Address: tlsAddress}, "is nss-certs among its packages?"},
		{TLS{Address: tlsAddress, Certificates: "/etc/passwd"}, "there is no certificate in /etc/passwd"},
		{HTTP{URL: url, Status: 200, Contains: "tol", Within: plenty, Version: "told"}, ""},
		{HTTP{URL: url, Version: "tol"}, `version "tol" is not served`},
		{HTTP{URL: url, VersionOf: "guix"}, `no channel "guix"`},
		{HTTP{URL: url, Status: 404}, "status 200, want 404"},
		{HTTP{URL: url + "slow", Within: 200 * time.Millisecond}, "over the budget of 200ms"},
		{HTTP{URL: url, Inside: true}, ""},
		{HTTP{URL: "http://" + closed, Inside: true}, "connection refused"},
		{HTTP{URL: outside.URL, Inside: true}, "the container trusts nobody"},
	} {
		checkProbe(t, in, c.probe, c.says)
	}
	database.Close()
	checkProbe(t, in, Unix{"/srv/state/socket"}, "connection refused")
	checkProbeWithin(t, in, 2*time.Second, Command{[]string{"/bin/sh", "-c", "/proc/1/exe -c '(sleep 987654)'; true"}}, "no answer within 2s")
	eventually(t, func() error { // it may have been killed just now
		for _, pid := range pids() {
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(line), "987654") {
				return fmt.Errorf("process %d of a command that took too long is left: %q", pid, line)
			}
		}
		return nil
	})
	in.Process.signal(unix.SIGKILL)
	if err := in.Process.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Probe{Alive{}, AllServices{}, Unix{"/var/run/shepherd/socket"}, Command{[]string{"true"}},
		TCP{Address: address, Inside: true}, DNS{Name: "localhost"}} {
		if _, err := p.Check(t.Context(), in, nil); err == nil {
			t.Errorf("%v passes without a container", p)
		}
	}
}

func writePEM(t *testing.T, name string, der []byte) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
}

// someAuthority returns a certificate that vouches for nobody else.
func someAuthority(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "somebody"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// What is dialled from inside goes through the container's network, also where that is its own.
func TestDialIn(t *testing.T) {
	samples(t) // needs root, too
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	p, _, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // no thread stays there
		if _, err := dialIn(t.Context(), p, "tcp", l.Addr().String()); !errors.Is(err, unix.ENETUNREACH) {
			t.Fatalf("out of a network that has nothing in it: %v", err)
		}
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
}

// Services that fail at start, late or now and then, as the schedule has it.
func TestRealSchedule(t *testing.T) {
	t.Parallel()
	script := samples(t)["told"]
	patient := Schedule{StartPeriod: plenty, Interval: 100 * time.Millisecond, Window: 500 * time.Millisecond}
	for _, c := range []struct {
		name     string
		settings map[string]string
		schedule Schedule
		says     string // empty: it becomes healthy
		probes   Probes // besides
	}{
		{"late within the start period", map[string]string{"MODE": "late", "TAKES": "1"}, patient, "", nil},
		{"late after it", map[string]string{"MODE": "late", "TAKES": "1000"},
			Schedule{StartPeriod: time.Millisecond, Interval: 50 * time.Millisecond, Threshold: 3}, "probe services: ", nil},
		{"dies within the window", nil, // once all has been well
			Schedule{StartPeriod: plenty, Interval: 100 * time.Millisecond, Window: time.Hour}, "respawn",
			Probes{Command{[]string{"/bin/sh", "-c", "read pid </run/sample-fickle.pid; kill -9 $pid"}}}},
		{"each second answer is a failure", map[string]string{"FLAPS": "2"}, patient, "status 503", nil},
		{"one answer in twenty is a failure", map[string]string{"FLAPS": "20"}, patient, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, _ := realDeployment(t)
			d.Schedule, d.StopTimeout = c.schedule, time.Second // shepherd would wait for what is still starting
			d.Probes = append(d.Probes, c.probes...)
			for name, value := range c.settings {
				d.Environment.Settings[name] = value
			}
			_, err := bringUnchecked(t, d, script)
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var unhealthy *UnhealthyError
			if !errors.As(err, &unhealthy) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %q", err, c.says)
			}
		})
	}
}
