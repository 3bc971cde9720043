package container

import (
	"fmt"
)

// An Outcome is how a change of the running generation failed. Its number is the
// exit code that tells it to other programs.
type Outcome int

const (
	// Refused: nothing was tried and nothing has changed.
	Refused Outcome = 10
	// Kept: it failed, and what ran before was not touched.
	Kept Outcome = 11
	// RolledBack: it failed, and the generation before runs again.
	RolledBack Outcome = 12
	// RollbackFailed: it failed, and so did going back. Nothing may be running.
	RollbackFailed Outcome = 13
)

// String returns the outcome in a few words.
func (o Outcome) String() string {
	switch o {
	case Refused:
		return "refused"
	case Kept:
		return "failed, the old generation was kept"
	case RolledBack:
		return "rolled back"
	case RollbackFailed:
		return "rollback failed"
	}
	return fmt.Sprintf("outcome %d", int(o))
}

// ExitCode returns the status a program should end with.
func (o Outcome) ExitCode() int { return int(o) }

// An Error says what became of a change that failed.
type Error struct {
	Deployment string
	Outcome    Outcome
	Err        error // why it failed
	// Rollback is why going back failed, nil unless Outcome is RollbackFailed.
	Rollback error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("deploy %s: %v: %v", e.Deployment, e.Outcome, e.Err)
	if e.Rollback != nil {
		text += fmt.Sprintf("\nthe old generation does not run either: %v", e.Rollback)
	}
	return text
}

// Unwrap returns the reasons.
func (e *Error) Unwrap() []error {
	if e.Rollback == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Rollback}
}
