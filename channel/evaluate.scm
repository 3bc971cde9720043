;; Load a channels file as "guix pull" does and write what it comes to, as data.
;; Whatever the file itself prints goes to standard error.

(use-modules (guix channels) (guix ui) (guix base16) (ice-9 match))

(define (introduction->sexp intro)
  (and intro
       (list ((@@ (guix channels) channel-introduction-first-signed-commit) intro)
             (bytevector->base16-string
              ((@@ (guix channels) channel-introduction-first-commit-signer)
               intro)))))

(define (channel->sexp channel)
  (list (channel-name channel) (channel-url channel)
        (channel-branch channel) (channel-commit channel)
        (introduction->sexp (channel-introduction channel))))

(define out (current-output-port))

(match (command-line)
  ((_ file)
   (let ((value (with-output-to-port (current-error-port)
                  (lambda ()
                    (load* file (make-user-module '((guix channels))))))))
     (match value
       (((? channel? channels) ...)
        (write (cons 'channels (map channel->sexp channels)) out))
       (_
        (write '(no-channels) out)))
     (force-output out))))
