package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/internal/guixbox"
	"github.com/genenetwork/guixci/internal/ports"
	"github.com/genenetwork/guixci/internal/samples"
)

const deploymentName = "sample"

// firstVersion is that of the sample project as it is made, nextVersion what it is upgraded to.
const firstVersion, nextVersion = "1.0", "1.1"

// environment makes the directories that the container is given when it is run:
// its settings, with a free port, and its state.
func (s *story) environment() error {
	port, err := ports.Free()
	if err != nil {
		return err
	}
	s.port = strconv.Itoa(port)
	s.web = "http://127.0.0.1:" + s.port + "/"
	for _, dir := range []string{"settings", "state"} {
		if err := os.MkdirAll(s.path("environment", dir), 0o755); err != nil {
			return fmt.Errorf("make environment: %w", err)
		}
	}
	return os.WriteFile(s.path("environment", "settings", "port"), []byte(s.port+"\n"), 0o644)
}

// How long services may take to come up: on a slow machine, and where it is known that they do not.
const (
	patience = 2 * time.Minute
	haste    = 8 * time.Second
)

// deployment is where the container runs. It is healthy when its services run and
// the web service serves the version; an empty version asks for any.
func (s *story) deployment(version string) *container.Deployment {
	exposes := []container.Mount{{Source: s.path("environment", "settings"), Target: "/etc/sample"}}
	for _, dir := range guixbox.Exposed() {
		exposes = append(exposes, container.Mount{Source: dir})
	}
	return s.pipeline.Deployment(&container.Deployment{
		Name:    deploymentName,
		Shares:  []container.Mount{{Source: s.path("environment", "state"), Target: "/var/lib/sample"}},
		Exposes: exposes,
		Probes: container.Probes{
			container.AllServices{}, container.Services{Names: samples.Services},
			container.HTTP{URL: s.web, Contains: "sample-project " + version},
		},
		Schedule: container.Schedule{StartPeriod: patience, Interval: 250 * time.Millisecond, Window: time.Second},
	})
}

type containerFound struct {
	Script     string   `json:"script"`
	Generation int      `json:"generation"`
	PID        int      `json:"pid"`
	Services   []string `json:"services"` // those that run
	URL        string   `json:"url"`
	Body       string   `json:"body"`
}

func (f containerFound) String() string {
	return fmt.Sprintf("generation %d, pid %d, %d services run, %s says %q", f.Generation, f.PID, len(f.Services), f.URL, strings.TrimSpace(f.Body))
}

func (s *story) container(ctx context.Context) (fmt.Stringer, error) {
	if err := s.environment(); err != nil {
		return nil, err
	}
	s.cleanup(func(ctx context.Context) error { return s.deployment("").Stop(ctx) })
	found, err := s.deploy(ctx, s.report.Lock, firstVersion, "the first deployment", patience)
	if err != nil {
		return found, err
	}
	readme, err := get(ctx, s.web+"README")
	if err != nil {
		return found, err
	}
	if want := "A project that is its own channel"; !strings.HasPrefix(readme, want) {
		return found, wrong("the file served over HTTP is not the project's README: %q", readme)
	}
	return found, nil
}

// deploy builds the container of a lock, makes it the running generation and looks at it.
func (s *story) deploy(ctx context.Context, lock *channel.Lock, version, why string, start time.Duration) (found containerFound, err error) {
	found.URL = s.web
	found.Script, err = s.pipeline.Container(ctx, lock, guixci.System{
		Channel: samples.Project, File: samples.Container, Network: true,
	})
	if err != nil {
		return found, err
	}
	d := s.deployment(version)
	d.Schedule.StartPeriod = start
	g, err := s.pipeline.Deploy(ctx, d, lock, container.Revision{Script: found.Script, Who: "guixci-demo", Why: why})
	if err != nil {
		return found, err
	}
	found.Generation = g.Number
	return found, s.look(ctx, d, version, &found)
}

// look checks from outside that what should run does.
func (s *story) look(ctx context.Context, d *container.Deployment, version string, found *containerFound) error {
	status, err := d.Status(ctx)
	if err != nil {
		return err
	}
	if status.Running == nil || !status.Confirmed {
		return wrong("no confirmed container runs")
	}
	found.PID = status.Running.Process.PID
	for _, service := range status.Services {
		if service.Status == "running" {
			found.Services = append(found.Services, service.Name())
		}
	}
	for _, name := range samples.Services {
		if !slices.Contains(found.Services, name) {
			return wrong("service %s does not run, only %s", name, strings.Join(found.Services, ", "))
		}
	}
	if found.Body, err = get(ctx, s.web); err != nil {
		return err
	}
	if !strings.Contains(found.Body, "sample-project "+version) {
		return wrong("%s says %q, which is not version %s", s.web, found.Body, version)
	}
	return nil
}

func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = wrong("get %s: %s", url, resp.Status)
	}
	return string(body), err
}

type upgradeFound struct {
	New      containerFound    `json:"new"`
	Starts   int               `json:"starts"` // of the service that keeps state, over all generations so far
	GivenUp  int               `json:"givenUp"`
	Because  string            `json:"because"`
	Outcome  container.Outcome `json:"outcome"` // number, as the exit code of guixci-deploy
	Restored containerFound    `json:"restored"`
}

func (f upgradeFound) String() string {
	return fmt.Sprintf("generation %d serves version %s; generation %d was given up (%s), and generation %d runs again",
		f.New.Generation, nextVersion, f.GivenUp, f.Because, f.Restored.Generation)
}

// upgrade replaces the container by the lock that repair found green, then by one whose
// packages build but whose web service does not come up.
func (s *story) upgrade(ctx context.Context) (fmt.Stringer, error) {
	var found upgradeFound
	var err error
	if found.New, err = s.deploy(ctx, s.report.Lock, nextVersion, "version "+nextVersion, patience); err != nil {
		return found, err
	}
	if found.Starts, err = s.starts(); err != nil {
		return found, err
	}
	if found.Starts < 2 { // a container may be started once more
		return found, wrong("the state says %d starts instead of 2: it was lost in the upgrade", found.Starts)
	}
	if _, err := s.samples.BreakService(); err != nil {
		return found, err
	}
	if s.report, err = s.pipeline.Run(ctx, s.spec); err != nil {
		return found, err
	}
	if !s.report.Green {
		return found, wrong("the commit whose service does not come up should be green: %v", s.report.Verdict)
	}
	_, err = s.deploy(ctx, s.report.Lock, nextVersion, "a service that does not come up", haste)
	var failed *container.Error
	if !errors.As(err, &failed) || failed.Outcome != container.RolledBack {
		return found, wrong("the generation whose service does not come up was not rolled back: %v", err)
	}
	found.Outcome = failed.Outcome
	found.Because = reason(failed)
	return found, s.restored(ctx, &found)
}

// restored looks whether the generation before runs again.
func (s *story) restored(ctx context.Context, found *upgradeFound) error {
	d := s.deployment("")
	all, err := d.Generations()
	if err != nil {
		return err
	}
	found.GivenUp = all[len(all)-1].Number
	if all[len(all)-1].Rejected == "" {
		return wrong("generation %d is not remembered as rejected", found.GivenUp)
	}
	current, err := d.Current()
	if err != nil {
		return err
	}
	found.Restored = containerFound{Script: current.Script, Generation: current.Number, URL: s.web}
	if current.Script != found.New.Script {
		return wrong("generation %d is current, not the one before the bad one", current.Number)
	}
	return s.look(ctx, d, nextVersion, &found.Restored)
}

// reason is why a generation was given up, in a few words.
func reason(failed *container.Error) string {
	var service *container.ServiceError
	if !errors.As(failed.Err, &service) {
		text, _, _ := strings.Cut(failed.Err.Error(), "\n")
		return text
	}
	text := service.Service.Name() + " " + service.Problem
	for _, line := range service.Messages {
		if strings.Contains(line, "No such file") || strings.Contains(line, "rror") {
			return text + ": " + strings.TrimSpace(line)
		}
	}
	return text
}

// starts reads what the service that keeps state has counted.
func (s *story) starts() (int, error) {
	text, err := os.ReadFile(filepath.Join(s.path("environment", "state"), "starts"))
	if err != nil {
		return 0, fmt.Errorf("read the container's state: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
