package record

// A Status is Cuirass's number for how far a build, and with it a job, is.
// No other number may ever be served: Guix's own clients stop on one they do not know.
type Status int

// The statuses. Those below zero are not final.
const (
	Submitted        Status = -3
	Scheduled        Status = -2
	Running          Status = -1
	Succeeded        Status = 0
	Failed           Status = 1 // by its own fault; such failures are remembered
	DependencyFailed Status = 2
	FailedOther      Status = 3 // by the machinery's fault
	Cancelled        Status = 4
)

var statusNames = map[Status]string{
	Submitted: "submitted", Scheduled: "scheduled", Running: "started", Succeeded: "succeeded",
	Failed: "failed", DependencyFailed: "failed-dependency", FailedOther: "failed-other", Cancelled: "canceled",
}

// String returns Cuirass's word for s.
func (s Status) String() string { return statusNames[s] }

// Final reports whether nothing more will happen.
func (s Status) Final() bool { return s >= 0 }

// Decided reports whether it says something about the package: that it is good, or that it
// or what it needs is not.
func (s Status) Decided() bool { return s == Succeeded || s == Failed || s == DependencyFailed }

// Weather compares a job with the same job of the evaluation before.
// It is Cuirass's number, with one difference: a cancelled build says nothing about the
// package, so it neither is nor was a failure.
type Weather int

// The weathers.
const (
	WeatherUnknown  Weather = -1 // not finished, cancelled, or never finished before
	NewSuccess      Weather = 0  // fixed
	NewFailure      Weather = 1  // broken
	StillSucceeding Weather = 2
	StillFailing    Weather = 3
)

var weatherNames = map[Weather]string{
	WeatherUnknown: "unknown", NewSuccess: "new-success", NewFailure: "new-failure",
	StillSucceeding: "still-succeeding", StillFailing: "still-failing",
}

// String returns Cuirass's word for w.
func (w Weather) String() string { return weatherNames[w] }

// weather of a job that has status now and had before.
func weather(now, before Status) Weather {
	says := func(s Status) bool { return s.Final() && s != Cancelled }
	switch {
	case !says(now) || !says(before):
		return WeatherUnknown
	case now == Succeeded && before == Succeeded:
		return StillSucceeding
	case now == Succeeded:
		return NewSuccess
	case before == Succeeded:
		return NewFailure
	}
	return StillFailing
}

// An EvaluationStatus is Cuirass's number for an evaluation.
type EvaluationStatus int

// The evaluation statuses.
const (
	EvaluationStarted   EvaluationStatus = -1
	EvaluationSucceeded EvaluationStatus = 0 // every job is known; builds may still be pending
	EvaluationFailed    EvaluationStatus = 1 // the verdict says why
	EvaluationAborted   EvaluationStatus = 2 // its process was killed, or it ended early; with a verdict, that is green
)

var evaluationNames = map[EvaluationStatus]string{
	EvaluationStarted: "started", EvaluationSucceeded: "succeeded",
	EvaluationFailed: "failed", EvaluationAborted: "aborted",
}

// String returns Cuirass's word for s.
func (s EvaluationStatus) String() string { return evaluationNames[s] }
