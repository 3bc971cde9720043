package container

import (
	"errors"
	"fmt"
)

// An Outcome is how a change of the running generation failed. Its number is the
// exit code that tells it to other programs.
type Outcome int

const (
	// NotTried: something that it takes could not be had, such as a disk with space or the
	// daemon. Nothing was tried and nothing has changed; it may well succeed later.
	NotTried Outcome = 3
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
	case NotTried:
		return "failed before it began"
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

// A declined is why nothing was tried: trying the same again does not help, as long as nobody changes what it speaks of.
type declined struct{ error }

// decline returns a declined, as [fmt.Errorf] has it.
func decline(format string, args ...any) error { return declined{fmt.Errorf(format, args...)} }

// Unwrap returns what was declined.
func (e declined) Unwrap() error { return e.error }

// ExitCode returns the status a program should end with.
func (declined) ExitCode() int { return Refused.ExitCode() }

// red is the exit status of programs for what was asked about and is not as it should be.
const red = 1

// notBegun returns the outcome of a change that did not begin: refused if that was decided.
func notBegun(err error) Outcome {
	var refusal *RefusalError
	var rejected *RejectedError
	var busy *BusyError
	var downgrade *DowngradeError
	var declined declined
	if errors.As(err, &refusal) || errors.As(err, &rejected) || errors.As(err, &busy) || errors.As(err, &downgrade) || errors.As(err, &declined) {
		return Refused
	}
	return NotTried
}

// An Error says what became of a change that failed.
type Error struct {
	Deployment string
	Outcome    Outcome
	Err        error // why it failed
	// Rollback is why going back failed, nil unless Outcome is RollbackFailed.
	Rollback error
	// Machine says that the revision is not to blame, nor is it rejected: it may well succeed later.
	Machine bool
}

func (e *Error) Error() string {
	text := fmt.Sprintf("deploy %s: %v: %v", e.Deployment, e.Outcome, e.Err)
	if e.Rollback != nil {
		text += fmt.Sprintf("\nthe old generation does not run either: %v", e.Rollback)
	}
	return text
}

// ExitCode returns the status a program should end with, that of the outcome, or of NotTried if nothing but the machine
// has failed: what ran before does so then.
func (e *Error) ExitCode() int {
	if e.Machine && e.Outcome != RollbackFailed {
		return NotTried.ExitCode()
	}
	return e.Outcome.ExitCode()
}

// Unwrap returns the reasons.
func (e *Error) Unwrap() []error {
	if e.Rollback == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Rollback}
}
