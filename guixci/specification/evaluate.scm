;; Load a file of Cuirass specifications in a Guix that may have no Cuirass, and write what
;; it comes to as plain data: each specification as its place and its fields, each of
;; those as name, place, and an expression for the value. Whatever the file itself
;; prints goes to standard error.

(define-module (cuirass notification)
  #:use-module (guix records)
  #:export (email email? email-from email-to email-server
            mastodon mastodon?))

(define-record-type* <email> email make-email email?
  (from email-from)
  (to email-to)
  (server email-server))

(define-record-type* <mastodon> mastodon make-mastodon mastodon?)

(define-module (cuirass specification)
  #:use-module (guix channels)
  #:use-module (guix records)
  #:use-module (ice-9 match)
  #:use-module (srfi srfi-1)
  #:export (build-output build-output? build-output-job build-output-type
            build-output-output build-output-path
            specification specification? specification-name
            specification-build specification-channels specification-period
            specification-priority specification-build-outputs
            specification-notifications specification-systems
            specification-is-active? specification-properties
            specification-green specification-timeout
            specification-max-silent-time specification-sessions
            specification-session-memory specification-places))

(define-record-type* <build-output> build-output make-build-output
  build-output?
  (job build-output-job)
  (type build-output-type)
  (output build-output-output (default "out"))
  (path build-output-path (default "")))

(define-record-type* <specification> placed-specification
  make-specification specification?
  (name specification-name)
  (build specification-build (default 'all))
  (channels specification-channels (default (list %default-guix-channel)))
  (build-outputs specification-build-outputs (default '()))
  (notifications specification-notifications (default '()))
  (period specification-period (default 0))
  (priority specification-priority (default 9))
  (systems specification-systems (default '())) ;that of the machine
  (is-active? specification-is-active? (default #t))
  (properties specification-properties (default '()))
  (green specification-green (default 'all))
  (timeout specification-timeout (default 0))
  (max-silent-time specification-max-silent-time (default 0))
  (sessions specification-sessions (default 0))
  (session-memory specification-session-memory (default 0))
  (places specification-places (default '())))

;; The record with the places of its fields, and at #f of itself: (FILE LINE COLUMN).
(define-syntax specification
  (lambda (s)
    (define (place . candidates)
      (match (filter-map syntax-source candidates)
        ((source _ ...)
         (list (assq-ref source 'filename)
               (+ 1 (assq-ref source 'line))
               (+ 1 (assq-ref source 'column))))
        (() #f)))
    (syntax-case s ()
      ((_ clause ...)
       (with-syntax (((at ...)
                      (map (lambda (clause)
                             (syntax-case clause ()
                               ((name value)
                                (datum->syntax s (cons (syntax->datum #'name)
                                                       (place #'value clause s))))
                               (_ (datum->syntax s (list #t)))))
                           #'(clause ...)))
                     (here (datum->syntax s (cons #f (place s)))))
         #'(placed-specification clause ... (places '(here at ...))))))))

(define-module (guixci specifications)
  #:use-module (cuirass notification)
  #:use-module (cuirass specification)
  #:use-module (guix base16)
  #:use-module (guix channels)
  #:use-module (guix ui)
  #:use-module (ice-9 match))

(define (introduction-code intro)
  (and intro
       `((introduction
          (make-channel-introduction
           ,((@@ (guix channels) channel-introduction-first-signed-commit) intro)
           (openpgp-fingerprint
            ,(bytevector->base16-string
              ((@@ (guix channels) channel-introduction-first-commit-signer)
               intro))))))))

(define (code value)
  "Return an expression for VALUE, as far as there is one."
  (match value
    ((? channel?)
     `(channel (name ',(channel-name value)) (url ,(channel-url value))
               (branch ,(channel-branch value)) (commit ,(channel-commit value))
               ,@(or (introduction-code (channel-introduction value)) '())))
    ((? build-output?)
     `(build-output (job ,(build-output-job value))
                    (type ,(build-output-type value))
                    (output ,(build-output-output value))
                    (path ,(build-output-path value))))
    ((? email?)
     `(email (from ,(email-from value)) (to ,(email-to value))
             (server ,(email-server value))))
    ((? mastodon?) '(mastodon))
    (_ value)))

(define (records value)
  "Return an expression for VALUE, a list of records."
  (if (list? value)
      (cons 'list (map code value))
      value))

(define (data value) `',value)

(define fields
  `((name ,specification-name ,data)
    (build ,specification-build ,data)
    (channels ,specification-channels ,records)
    (build-outputs ,specification-build-outputs ,records)
    (notifications ,specification-notifications ,records)
    (period ,specification-period ,data)
    (priority ,specification-priority ,data)
    (systems ,specification-systems ,data)
    (is-active? ,specification-is-active? ,data)
    (properties ,specification-properties ,data)
    (green ,specification-green ,data)
    (timeout ,specification-timeout ,data)
    (max-silent-time ,specification-max-silent-time ,data)
    (sessions ,specification-sessions ,data)
    (session-memory ,specification-session-memory ,data)))

(define (specification->sexp spec)
  (let ((places (specification-places spec)))
    (cons (assq-ref places #f)
          (map (match-lambda
                 ((name get expression)
                  (list name
                        (or (assq-ref places name) (assq-ref places #f))
                        (expression (get spec)))))
               fields))))

(define out (current-output-port))

(match (command-line)
  ((_ file)
   (let ((value (with-output-to-port (current-error-port)
                  (lambda ()
                    (load* file (make-user-module '((guix channels)
                                                    (cuirass notification)
                                                    (cuirass specification))))))))
     (match value
       (((? specification? specs) ...)
        (write (cons 'specifications (map specification->sexp specs)) out))
       (_
        (write '(no-specifications) out)))
     (force-output out))))
