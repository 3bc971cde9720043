package container

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const sampleFile = `;; a deployment
(deployment
 (lock "channels.lock")
 (system (channel "project") (file "deploy/container.scm") (network? #t))
 (probes (all-services (except "nscd")) (services "web"))
 (settings (A "common") (B "common"))
 (schedule (start-period "90s") (threshold 5))
 (environment "cd"
  (network (address "10.77.0.2") (gateway "10.77.0.1"))
  (settings (A "cd")))
 (environment "production"
  (mount "state" (source "/srv/state") (target "/var/lib/web") (writable? #t) (owner "web"))
  (mount "data" (source "/export/data"))
  (settings (A "production"))
  (renamed "www" "web") (renamed "mysql" "maria")
  (settings-format "json")
  (required "A" "key")
  (secret "key" (file "/etc/keys/web") (uid 33))
  (ports 80 443)
  (memory "8G") (tasks 400) (runner "systemd")
  (schedule (start-period "2m"))
  (probes (http "http://localhost/" (status 200) (contains "web") (within "2s") (version "1.2")
            (version-of "web") (header "X-Version") (inside? #t))
          (http "http://${ADDRESS}:${PORT}/") (http "http://[${ADDRESS}]:8080/?cost=$1&%24filter=x") (tcp "localhost:443") (tcp "db:3306" (inside? #t)) (unix "/run/mysqld/mysqld.sock")
          (command "check" "--all") (tls "example.org:443" (certificates "/etc/ca.pem") (valid-for "168h"))
          (dns "example.org" (within "500ms")) (process))))
`

func TestReadFile(t *testing.T) {
	f, err := ReadFile("d.scm", strings.NewReader(sampleFile))
	if err != nil {
		t.Fatal(err)
	}
	if f.Lock != "channels.lock" || f.System != (FileSystem{"project", "deploy/container.scm", true}) {
		t.Errorf("%+v", f)
	}
	ignore := cmpopts.IgnoreUnexported(Deployment{})
	common := Probes{AllServices{Except: []string{"nscd"}}, Services{Names: []string{"web"}}}
	want := map[string]*Deployment{
		"cd": {
			Environment: Environment{Name: "cd", Settings: map[string]string{"A": "cd", "B": "common"},
				Network: Network{Address: netip.MustParseAddr("10.77.0.2"), Gateway: netip.MustParseAddr("10.77.0.1")}},
			Probes: common, Schedule: Schedule{StartPeriod: 90 * time.Second, Threshold: 5},
		},
		"production": {
			Shares:  []Mount{{Name: "state", Source: "/srv/state", Target: "/var/lib/web", Owner: "web"}},
			Exposes: []Mount{{Name: "data", Source: "/export/data"}},
			Environment: Environment{
				Name: "production", Settings: map[string]string{"A": "production", "B": "common"}, Format: JSON,
				Required: []string{"A", "key"}, Secrets: []Secret{{Name: "key", File: "/etc/keys/web", UID: 33}},
				Ports: []int{80, 443}, Limits: Limits{Memory: 8 << 30, Tasks: 400}, Runner: "systemd",
			},
			Probes: append(common[:2:2],
				HTTP{URL: "http://localhost/", Status: 200, Contains: "web", Within: 2 * time.Second, Version: "1.2",
					VersionOf: "web", Header: "X-Version", Inside: true},
				HTTP{URL: "http://${ADDRESS}:${PORT}/"}, HTTP{URL: "http://[${ADDRESS}]:8080/?cost=$1&%24filter=x"}, TCP{Address: "localhost:443"}, TCP{Address: "db:3306", Inside: true}, Unix{"/run/mysqld/mysqld.sock"},
				Command{[]string{"check", "--all"}}, TLS{Address: "example.org:443", Certificates: "/etc/ca.pem", ValidFor: 168 * time.Hour},
				DNS{Name: "example.org", Within: 500 * time.Millisecond}, Alive{}),
			Schedule: Schedule{StartPeriod: 2 * time.Minute, Threshold: 5}, Renamed: []Renaming{{"www", "web"}, {"mysql", "maria"}},
		},
	}
	if diff := cmp.Diff(want, f.Environments, ignore, sameAddress); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := f.Environment("staging"); err == nil || !strings.Contains(err.Error(), "there are cd, production") {
		t.Errorf("error %v", err)
	}
}

// Each mistake is said to be where it is.
func TestReadFileMistakes(t *testing.T) {
	around := func(field string) string {
		return "(deployment (script \"/s\")\n (environment \"a\"\n  " + field + "))\n"
	}
	for _, c := range []struct{ text, want string }{
		{"", `d.scm:1:1: there is no (deployment …)`},
		{"(deployment", `d.scm:1:12:`},
		{"(channels)", `d.scm:1:1: (channels …) is not a deployment`},
		{around("") + "more", `d.scm:4:1: there is something after`},
		{`(deployment (script "/s"))`, `d.scm:1:1: deployment: no environment`},
		{`(deployment (environment "a"))`, `no system with a channel`},
		{around("(prots 80)"), `d.scm:3:3: environment has no field "prots"; it has confirm-by, follows, free-space, keep, `},
		{around("(ports 80) (ports 81)"), `d.scm:3:14: field "ports" is there twice`},
		{around("(ports 80 0)"), `d.scm:3:13: ports: 0 is not a port`},
		{around("(settings (A 80))"), `d.scm:3:16: A: 80 is not a string`},
		{around("(settings (A \"1\")\n   (A \"2\"))"), `d.scm:4:4: A: is set twice`},
		{around(`(mount "x")`), `d.scm:3:3: mount: "x" has no source`},
		{around(`(mount "x" (source "/x") (owner "a"))`), `is read-only`},
		{around(`(mount "x" (source "/x") (writable? yes))`), `d.scm:3:39: writable?: yes is neither #t nor #f`},
		{around(`(secret "x")`), `has no file`},
		{around(`(network (address "10.77.0.2"))`), `d.scm:3:3: network: needs an address and a gateway`},
		{around(`(network (address "here") (gateway "10.77.0.1"))`), `d.scm:3:21: address: "here" is not an address`},
		{around(`(renamed "www")`), `d.scm:3:3: renamed: wants two names`},
		{around(`(memory "8")`), `d.scm:3:11: memory: "8" is not a size such as "512M"`},
		{around(`(free-space "64")`), `d.scm:3:15: free-space: "64" is not a size`},
		{around(`(memory 8)`), `d.scm:3:11: memory: 8 is not a size such as "512M"`},
		{around(`(memory "8X")`), `d.scm:3:11: memory: "8X" is not a size`},
		{around(`(runner "docker")`), `d.scm:3:11: runner: "docker" is none of supervisor, systemd, shepherd`},
		{around(`(memory "9999999999T")`), `is not a size`},
		{around(`(schedule (window "soon"))`), `d.scm:3:21: window: "soon" is not a time`},
		{around(`(probes (ping))`), `probes has no field "ping"`},
		{around(`(probes (http "localhost"))`), `d.scm:3:17: http: "localhost" is not a URL`},
		{around(`(probes (http "http://a" (within 2)))`), `d.scm:3:36: within: 2 is not a time such as "90s"`},
		{around(`(probes (http "http://a" (header "X")))`), `d.scm:3:11: http: header "X": say which version`},
		{around(`(probes (tcp "localhost"))`), `d.scm:3:16: tcp: "localhost" is not of the form HOST:PORT`},
		{around(`(probes (http "http://a:$PORT/"))`), `d.scm:3:17: http: $PORT would be taken as it is: ${NAME} is the setting of that name, and a dollar sign in a URL is %24`},
		{around(`(probes (http "http://${A}/?$filter=x"))`), `d.scm:3:17: http: $filter would be taken`},
		{around(`(probes (http "http://a/${MY-PORT}"))`), `d.scm:3:17: http: ${MY-PORT} would be taken`},
		{around(`(probes (http "http://a/${PORT"))`), `d.scm:3:17: http: ${PORT would be taken`},
		{around(`(probes (tcp "$HOST:80"))`), `d.scm:3:16: tcp: $HOST would be taken`},
		{around(`(probes (tls "a:$PORT"))`), `d.scm:3:16: tls: $PORT would be taken`},
		{around(`(probes (dns "$HOST"))`), `d.scm:3:16: dns: $HOST would be taken`},
		{around(`(probes (tcp))`), `d.scm:3:11: tcp: a string is missing`},
		{around(`(probes (unix "socket"))`), `d.scm:3:17: unix: "socket" is not an absolute`},
		{around(`(probes (command))`), `d.scm:3:11: command: a string is missing`},
		{around(`(probes (services web))`), `d.scm:3:21: services: web is not a string`},
		{around(`(probes (tls "a:1" (valid-for "long")))`), `d.scm:3:33: valid-for: "long" is not a time`},
		{around(`(probes (dns "a" (inside? #t)))`), `d.scm:3:20: dns has no field "inside?"; it has within`},
		{around(`mount`), `d.scm:3:3: mount is not of the form`},
		{`(deployment (script "/s") (environment "a") (environment "a"))`, `d.scm:1:58: environment: "a" is there twice`},
	} {
		_, err := ReadFile("d.scm", strings.NewReader(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
}

// A disk is asked for space where it is mentioned, and else where it is decided how much.
func TestDiskRefusalsHaveTheirPlace(t *testing.T) {
	mount := t.TempDir()
	for text, want := range map[string]string{
		`(deployment (script "/s") (free-space "1000000T")
			(environment "a"))`: "d.scm:1:27: disk of state directory",
		`(deployment (script "/s")
			(environment "a" (free-space "1000000T")))`: "d.scm:2:21: disk of state directory",
		`(deployment (script "/s") (free-space "1000000T")
			(environment "a"
			 (mount "state" (source "` + mount + `") (writable? #t))))`: "d.scm:3:5: disk of mount " + mount,
	} {
		d := readEnvironmentA(t, text)
		err := d.checkDisk(d.generation(Revision{Script: "/s"}))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	d := readEnvironmentA(t, `(deployment (script "/s")
		(environment "a"))`)
	d.MinFree = 1 << 60 // as the default is, on a disk with less than that
	if err := d.checkDisk(d.generation(Revision{Script: "/s"})); err == nil || !strings.HasPrefix(err.Error(), "d.scm:2:3: disk of state directory") {
		t.Errorf("error %v", err)
	}
}

// readEnvironmentA reads a deployment file for its environment "a".
func readEnvironmentA(t *testing.T, text string) *Deployment {
	t.Helper()
	f, err := ReadFile("d.scm", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	d := f.Environments["a"]
	d.Dir = t.TempDir()
	return d
}

// What the preflight refuses stands somewhere in the file.
func TestRefusalsHaveTheirPlace(t *testing.T) {
	open, dir := writeSecret(t, "x", 0o640), t.TempDir()
	exposed := writeSecret(t, "x", 0o600)
	if err := os.Chmod(filepath.Dir(exposed), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ field, check, want string }{
		{`(secret "key" (file "` + open + `"))`, "environment", `d.scm:2:3: secret "key": ` + open + ` has mode`},
		{`(secret "key" (file "` + exposed + `"))`, "environment", `d.scm:2:3: secret "key": directory`},
		{`(memory "1023K")`, "environment", `d.scm:2:3: a limit of 1023 KiB of memory is less than`},
		{`(settings (A "x") (A-B "x"))`, "environment", `d.scm:2:21: setting "A-B": a name`},
		{`(settings (A "x")) (required "A" "B")`, "environment", `d.scm:2:36: required setting "B"`},
		{`(settings (A "x")) (target "/tmp")`, "mount", `d.scm:2:22: the environment's files: mount`},
		{`(pre-switch "/bin/true") (pre-switch "/nowhere" "a" (live? #t))`, "hook", `d.scm:2:28: hook: stat /nowhere`},
		{`(ports 1) (side-by-side (ports 1) (move-traffic "/bin/true"))`, "hook", `d.scm:2:13: port 1 cannot be`},
		{`(ports 1) (side-by-side (ports 2) (move-traffic "/nowhere"))`, "hook", `d.scm:2:37: hook: stat /nowhere`},
		{`(ports 1) (free-space "1000000T")`, "disk", `d.scm:2:13: disk of state directory`},
		{`(mount "state" (source "` + dir + `") (writable? #t)) (free-space "1000000T") (snapshot "state")`, "snapshot",
			fmt.Sprintf(`d.scm:2:%d: a snapshot needs`, 3+len(`(mount "state" (source "") (writable? #t)) (free-space "1000000T") (snapshot `)+len(dir))},
		{`(mount "state" (source "` + dir + `") (writable? #t)) (snapshot "state" "stale")`, "snapshot",
			fmt.Sprintf(`d.scm:2:%d: snapshot of "stale"`, 3+len(`(mount "state" (source "") (writable? #t)) (snapshot "state" `)+len(dir))},
	} {
		f, err := ReadFile("d.scm", strings.NewReader("(deployment (script \"/s\") (environment \"a\"\n  "+c.field+"))"))
		if err != nil {
			t.Error(err)
			continue
		}
		d, here := f.Environments["a"], testDeployment(t)
		d.Name, d.Dir, d.unprivileged = here.Name, here.Dir, true
		plan, err := d.Plan(t.Context(), Revision{Script: script(t, here, "works", "status-works.sexp")})
		if err != nil {
			t.Error(err)
			continue
		}
		if !slices.ContainsFunc(plan.Refusals, func(r Refusal) bool { return r.Check == c.check && strings.HasPrefix(r.Reason, c.want) }) {
			t.Errorf("%s: %+v, want %s", c.field, plan.Refusals, c.want)
		}
	}
}
