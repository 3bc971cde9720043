;; One process that lowers all packages of Guix and prints how many: those that
;; the mode (channels guix) lowers, without any metadata.
(use-modules (guix packages) (guix derivations) (guix grafts) (guix store)
             (gnu packages) (gnu packages base)
             (ice-9 match) (srfi srfi-1))

(define (adjust package result)
  (cond ((package-replacement package)
         => (lambda (replacement) (cons* replacement package result)))
        ((package-superseded package) result)
        (else (cons package result))))

(define final-inputs
  (match (%final-inputs)
    (((labels packages _ ...) ...) packages)))

(define base (make-hash-table))

(for-each (lambda (package)
            (match (package-transitive-inputs package)
              (((_ inputs _ ...) ...)
               (for-each (lambda (input) (hashq-set! base input #t)) inputs))))
          final-inputs)

(define seen (make-hash-table))

(define count
  (with-store store
    (parameterize ((%graft? #f))
      (fold (lambda (package count)
              (if (hashq-ref seen package)
                  count
                  (begin
                    (hashq-set! seen package #t)
                    (if (or (hashq-ref base package)
                            (supported-package? package))
                        (begin
                          (package-derivation store package #:graft? #f)
                          (+ 1 count))
                        count))))
            0
            (fold-packages adjust (fold adjust '() final-inputs)
                           #:select? (const #t))))))

(format #t "~a~%" count)
