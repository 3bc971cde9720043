;;; The test suite; the check phase of the package runs it.

(use-modules (sample greeting)
             (srfi srfi-64))

(test-begin "sample-project")
(test-assert "the greeting has the name"
  (string-contains (greeting "world") "world"))
(test-assert "the greeting has the version"
  (string-contains (greeting "world") %version))
(let ((failures (test-runner-fail-count (test-runner-current))))
  (test-end "sample-project")
  (exit (zero? failures)))
