// Package record keeps what happened: which evaluations there were, of which
// Lock, which jobs they yielded, what became of the builds, and which Lock was
// the last one that was green.
//
//	r, err := record.Open(stateDir)                  // *HeldError if another guixci has it
//	e, err := r.BeginEvaluation(record.Evaluation{Specification: "sample", LockDigest: digest, Lock: lock})
//	err = r.AddJobs(e, record.Job{Name: "hello", System: "x86_64-linux", Derivation: drv})
//	err = r.FinishBuild(record.Build{Derivation: drv, Status: record.Succeeded})
//	err = r.FinishEvaluation(e, record.EvaluationSucceeded, verdict)
//	green, err := r.LastGreen("sample", record.Policy{})
//
// The numbers of [Status], [Weather] and [EvaluationStatus] are Cuirass's
// (src/cuirass/database.scm there), because "guix weather" and (guix ci) read
// them; what they cannot say is in the Cause beside them.
//
// It is one SQLite file, record.db, in the state directory. Whatever a method
// has returned without error is on disk; whatever it has not is not in the
// record at all. A process may therefore be killed at any instant: the next
// [Open] finds a readable record and puts aside what the dead process left
// unfinished (see [Recovery]).
//
// There is one writer per state directory. The methods take no context on
// purpose: they wait for nothing but the local disk, and that a build was
// cancelled must be recorded although its context has ended.
package record
