;; Jobs of one's own, for (custom (my jobs)) in a specification.
(define-module (my jobs)
  #:use-module (gnu ci)
  #:use-module (guix gexp)
  #:use-module (guix packages)
  #:use-module (guix store)
  #:use-module (gnu packages base)
  #:use-module (srfi srfi-1)
  #:export (cuirass-jobs))

(define (cuirass-jobs store arguments)
  (append-map
   (lambda (system)
     (list (derivation->job (string-append "my-hello." system)
                            (package-derivation store hello system
                                                #:graft? #f)
                            #:timeout 90)
           (derivation->job (string->symbol (string-append "my-note." system))
                            (run-with-store store
                              (gexp->derivation "note" #~(mkdir #$output)
                                                #:system system)))))
   (arguments->systems arguments)))
