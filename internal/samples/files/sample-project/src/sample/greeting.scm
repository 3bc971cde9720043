(define-module (sample greeting)
  #:export (%version greeting))

(define %version "1.0")

(define (greeting name)
  "Return what is said to NAME."
  (string-append "hello " name ", this is sample-project " %version "\n"))
