package check

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
	"github.com/genenetwork/guixci/internal/cli"
)

func TestTable(t *testing.T) {
	commit := func(c string) channel.Commit { return channel.Commit(strings.Repeat(c, 40)) }
	span := guixci.Span{Since: 7, Before: 6, Moves: []guixci.Move{
		{Channel: "mine", From: commit("a"), To: commit("b"), Total: 3,
			Commits: []channel.Note{{Commit: commit("b"), Subject: "Break it.", Author: "Alice"}}},
		{Channel: "fresh", To: commit("c")}, {Channel: "old", From: commit("d")}}}
	r := &guixci.Report{Specification: "s", Evaluation: 7, Verdict: &guixci.Verdict{Green: true},
		Jobs: []record.Job{{Status: record.Succeeded}, {Status: record.Failed}, {Status: record.Cancelled}}}
	findings := []guixci.Finding{
		{Change: guixci.NewlyBroken, Job: "a", Cause: "failed", Telling: []string{"error: 1", "error: 2"}, Span: span},
		{Change: guixci.NewlyBroken, Job: "b", Cause: "dependency failed", Culprit: "/gnu/store/0123-a-1.0.drv", Span: span},
		{Change: guixci.StillBroken, Job: "c", Cause: "timed out", Span: guixci.Span{Since: 2}},
		{Change: guixci.Fixed, Span: guixci.Span{Since: 7, Before: 5}},
	}
	for i := range 40 {
		findings = append(findings, guixci.Finding{Change: guixci.Fixed, Job: fmt.Sprint("d", i), Span: guixci.Span{Since: 7, Before: 6}})
	}
	findings = append(findings, guixci.Finding{Change: guixci.Undecided, Job: "e", Cause: "disk full", Span: guixci.Span{Since: 7}})
	var lines []string
	table(func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }, r, findings)
	want := []string{
		"newly broken since evaluation 7 (6 was good):",
		"  channel mine aaaaaaa..bbbbbbb",
		"    bbbbbbb Break it. (Alice)",
		"    and 2 more",
		"  channel fresh is new, at ccccccc",
		"  channel old is gone, was at ddddddd",
		"  a failed",
		"    | error: 1",
		"    | error: 2",
		"  b dependency failed: a-1.0",
		"still broken since evaluation 2:",
		"  c timed out",
		"fixed since evaluation 7 (5 was bad):",
		"  guix pull",
		"fixed since evaluation 7 (6 was bad):",
	}
	for i := range mostJobs {
		want = append(want, fmt.Sprint("  d", i))
	}
	want = append(want, "  and 10 more", "undecided, to be tried again by the next check:", "  e disk full", "s: evaluation 7: 1 of 3 jobs succeeded, 1 were not built")
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestVerdict(t *testing.T) {
	green, red := &guixci.Verdict{Green: true}, &guixci.Verdict{}
	jobs := func(statuses ...record.Status) (all []record.Job) {
		for i, s := range statuses {
			all = append(all, record.Job{Name: fmt.Sprint("j", i), Status: s})
		}
		return all
	}
	only := func(names ...string) record.Policy { return record.Policy{Jobs: names} }
	tests := []struct {
		name   string
		report guixci.Report
		policy record.Policy
		until  guixci.Kind
		want   int
	}{
		{"green", guixci.Report{Verdict: green, Green: true}, only(), "", cli.OK},
		{"red pull", guixci.Report{Verdict: red}, only(), "", cli.Red},
		{"red pull, named jobs", guixci.Report{Verdict: red}, only("j0"), "", cli.Red},
		{"failed", guixci.Report{Verdict: green, Jobs: jobs(record.Succeeded, record.Failed)}, only(), "", cli.Red},
		{"dependency failed", guixci.Report{Verdict: green, Jobs: jobs(record.DependencyFailed)}, only(), "", cli.Red},
		{"another one failed, this is unknown", guixci.Report{Verdict: green, Jobs: jobs(record.FailedOther, record.Failed)}, only("j0"), "", cli.Failure},
		{"failed and unknown", guixci.Report{Verdict: green, Jobs: jobs(record.FailedOther, record.Failed)}, only(), "", cli.Red},
		{"no such job", guixci.Report{Verdict: green, Jobs: jobs(record.Succeeded)}, only("x"), "", cli.Red},
		{"pulled only", guixci.Report{Verdict: green}, only("x"), guixci.Pulled, cli.OK},
		{"pulled only, red", guixci.Report{Verdict: red}, only(), guixci.Pulled, cli.Red},
		{"evaluated only", guixci.Report{Verdict: green, Jobs: jobs(record.Cancelled)}, only(), guixci.Enumerated, cli.OK},
		{"evaluated only, one is bad", guixci.Report{Verdict: green, Jobs: jobs(record.Cancelled, record.Failed)}, only(), guixci.Enumerated, cli.Red},
	}
	for _, test := range tests {
		err := verdict(guixci.Specification{Name: "s", Green: test.policy}, &test.report, test.until)
		if code := cli.ExitCode(err); code != test.want {
			t.Errorf("%s: status %d (%v), want %d", test.name, code, err, test.want)
		}
	}
}
