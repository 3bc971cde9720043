package guixci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/guixci/store"
)

// Retention says which evaluations keep what was made for them: the profile of the lock, the roots of
// what was built, the checkouts of the channels. Last green ones, those of deployed
// generations and what is under way always do. The zero value keeps all.
// What is not kept is no longer safe from the garbage collector; the record, the logs
// and published archives stay.
type Retention struct {
	Evaluations int // this many of the newest of each specification
}

// Pruned is what [Pipeline.Prune] has removed.
type Pruned struct {
	Profiles, Checkouts, Roots int
}

// Prune removes what keep does not ask for. It waits for a run that is at work.
func (p *Pipeline) Prune(ctx context.Context, keep Retention) (gone Pruned, err error) {
	if keep == (Retention{}) {
		return Pruned{}, nil
	}
	if _, err := p.takeTurn(ctx); err != nil {
		return Pruned{}, fmt.Errorf("prune: %w", err)
	}
	defer func() { <-p.turn }()
	needed, err := p.needed(ctx, keep)
	if err == nil {
		gone.Profiles, err = p.pruneProfiles(ctx, needed)
	}
	if err == nil {
		gone.Checkouts, err = prune(p.path("checkouts"), os.RemoveAll, func(name string) bool { return needed.checkouts[name] })
	}
	if err == nil {
		gone.Roots, err = p.pruneRoots(needed)
	}
	if err != nil {
		return gone, fmt.Errorf("prune: %w", err)
	}
	p.o.Logger.Info("pruned", "profiles", gone.Profiles, "checkouts", gone.Checkouts, "roots", gone.Roots)
	return gone, nil
}

// needs is what must stay, as it is called in the state directory.
type needs struct {
	digests   map[string]bool // of locks
	checkouts map[string]bool
	items     map[string]bool // base names of store items
}

// needed finds out what must stay.
func (p *Pipeline) needed(ctx context.Context, keep Retention) (*needs, error) {
	n := &needs{digests: map[string]bool{}, checkouts: map[string]bool{}, items: map[string]bool{}}
	evaluations, err := p.keptEvaluations(keep)
	if err != nil {
		return nil, err
	}
	var graph store.Graph
	for _, e := range evaluations {
		lock, err := recordedLock(e)
		if err != nil {
			return nil, err
		}
		n.lock(lock)
		if err := p.neededItems(ctx, n, &graph, e.ID); err != nil {
			return nil, err
		}
	}
	for i := range graph.Len() {
		for _, o := range graph.Outputs(store.ID(i)) {
			n.items[filepath.Base(string(o.Path))] = true
		}
	}
	return n, p.neededByDeployments(n)
}

func (n *needs) lock(lock *channel.Lock) {
	n.digests[lock.Digest()] = true
	for _, c := range lock.Channels {
		n.checkouts[checkoutName(c)] = true
	}
}

// keptEvaluations are the newest of each specification and the last green ones.
func (p *Pipeline) keptEvaluations(keep Retention) (kept []*record.Evaluation, err error) {
	specs, err := p.History().Specifications()
	if err != nil {
		return nil, err
	}
	for _, spec := range specs {
		n := 0
		for e, err := range p.record.Evaluations(spec.Name) {
			if err != nil {
				return nil, err
			}
			if n++; n <= keep.Evaluations || e.Status == record.EvaluationStarted {
				kept = append(kept, &e)
			}
		}
		for _, policy := range []record.Policy{spec.Green, {}} {
			e, err := p.record.LastGreen(spec.Name, policy)
			if err == nil {
				kept = append(kept, e)
			} else if !errors.Is(err, record.ErrNotFound) {
				return nil, err
			}
		}
	}
	return slices.DeleteFunc(kept, func(e *record.Evaluation) bool { return len(e.Lock) == 0 }), nil
}

// neededItems adds what the jobs of an evaluation make, and to graph what they need for that.
func (p *Pipeline) neededItems(ctx context.Context, n *needs, graph *store.Graph, evaluation int64) error {
	var drvs []store.StorePath
	for job, err := range p.record.Jobs(evaluation) {
		if err != nil {
			return err
		}
		var m Metadata
		if err := json.Unmarshal(job.Metadata, &m); err == nil {
			for _, item := range m.Outputs {
				n.items[filepath.Base(item)] = true
			}
		}
		if _, err := os.Stat(job.Derivation); job.Derivation != "" && err == nil {
			drvs = append(drvs, store.StorePath(job.Derivation))
		}
	}
	return graph.Add(ctx, drvs...)
}

// neededByDeployments adds the locks of deployed generations. Their containers have roots of
// their own, elsewhere.
func (p *Pipeline) neededByDeployments(n *needs) error {
	names, err := os.ReadDir(p.path("deployments"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range names {
		generations, err := p.Deployment(&container.Deployment{Name: d.Name()}).Generations()
		if err != nil {
			return err
		}
		for _, g := range generations {
			n.digests[g.Lock] = true
			for _, c := range g.Channels {
				n.checkouts[c.Name+"-"+c.Commit] = true
			}
		}
	}
	return nil
}

func (p *Pipeline) pruneProfiles(ctx context.Context, n *needs) (gone int, err error) {
	names, err := p.puller.Names()
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if n.digests[name] {
			continue
		}
		if err := p.puller.Remove(ctx, name); err != nil {
			return gone, err
		}
		gone++
	}
	return gone, nil
}

// containerRoot is the name of the root of a container built from a lock.
func containerRoot(digest string, sys System) string {
	return "container-" + digest + "-" + sys.Channel + "-" + strings.ReplaceAll(sys.File, "/", "-")
}

func (p *Pipeline) pruneRoots(n *needs) (int, error) {
	return prune(p.path("roots"), os.Remove, func(name string) bool {
		if rest, ok := strings.CutPrefix(name, "container-"); ok {
			digest, _, _ := strings.Cut(rest, "-")
			return n.digests[digest]
		}
		return n.items[name]
	})
}

// prune removes the entries of a directory that are not to stay.
func prune(dir string, remove func(string) error, stays func(name string) bool) (gone int, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if stays(e.Name()) {
			continue
		}
		if err := remove(filepath.Join(dir, e.Name())); err != nil {
			return gone, err
		}
		gone++
	}
	return gone, nil
}
