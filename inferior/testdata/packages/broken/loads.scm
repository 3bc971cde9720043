;; Packages that load and then misbehave when they are lowered.
(define-module (broken loads)
  #:use-module (guix packages)
  #:use-module (guix gexp)
  #:use-module (guix diagnostics)
  #:use-module (guix i18n)
  #:use-module (rnrs bytevectors)
  #:use-module (srfi srfi-34)
  #:use-module (guix build-system gnu)
  #:use-module (guix build-system trivial)
  #:use-module ((guix licenses) #:prefix license:))

(define-public fine
  (package
    (name "fine")
    (version "1.0")
    (source #f)
    (build-system trivial-build-system)
    (arguments (list #:builder #~(mkdir #$output)))
    (home-page "https://example.org/fine")
    (synopsis "Package without fault")
    (description "It makes a directory.")
    (license (list license:gpl3+ license:expat))
    (properties '((timeout . 60)))))

(define-public unbound-input
  (package
    (inherit fine)
    (name "unbound-input")
    (inputs (list linux-libre-7.2))))

(define-public says-why
  (package
    (inherit fine)
    (name "says-why")
    (arguments (list #:builder (raise
                                (formatted-message (G_ "~a is not the year ~a")
                                                   "2024" 2025))))))

(define-public wrong-input
  (package
    (inherit fine)
    (name "wrong-input")
    (inputs (list 42))))

(define-public for-ever
  (package
    (inherit fine)
    (name "for-ever")
    (inputs (let loop () (loop)))))

(define-public killer
  (package
    (inherit fine)
    (name "killer")
    (inputs (begin
              (display "goodbye\n" (current-error-port))
              (kill (getpid) SIGKILL)
              '()))))

(define-public chatter
  (package
    (inherit fine)
    (name "chatter")
    (inputs (begin
              (display "(values (value 1))\n")
              (system* "echo" "(values (value 2))")
              '()))))

(define-public no-substitutes
  (package
    (inherit fine)
    (name "no-substitutes")
    (build-system gnu-build-system)
    (arguments (list #:substitutable? #f))))

(define-public eater
  (package
    (inherit fine)
    (name "eater")
    (inputs (let loop ((kept '()))
              (loop (cons (make-bytevector (* 4 1024 1024) 1) kept))))))
