;; The packages that "all" is made of where there are no others: one of each kind
;; that (gnu ci) tells apart.
(define-module (small packages)
  #:use-module (guix gexp)
  #:use-module (guix packages)
  #:use-module (guix build-system trivial)
  #:use-module (guix build-system gnu)
  #:use-module ((guix licenses) #:prefix license:))

(define-public plain
  (package
    (name "plain")
    (version "1.0")
    (source #f)
    (build-system trivial-build-system)
    (arguments (list #:builder #~(mkdir #$output)))
    (home-page "https://example.org")
    (synopsis "Package of the usual kind")
    (description "It makes a directory.")
    (license license:gpl3+)))

(define-public older
  (package (inherit plain) (version "0.9")))

(define-public patient
  (package
    (inherit plain)
    (name "patient")
    (properties '((timeout . 90000) (max-silent-time . 80000)))))

(define-public hidden
  (hidden-package (package (inherit plain) (name "hidden"))))

(define-public replaced
  (package
    (inherit plain)
    (name "replaced")
    (replacement (package (inherit plain) (name "replaced") (version "1.1")))))

(define-public superseded
  (deprecated-package "superseded" plain))

(define-public tunable
  (package
    (inherit plain)
    (name "tunable")
    (build-system gnu-build-system)
    (arguments '())
    (properties '((tunable? . #t)))))

(define-public foreign
  (package
    (inherit plain)
    (name "foreign")
    (supported-systems '("armhf-linux"))))

(define-public kept-private
  (package
    (inherit plain)
    (name "kept-private")
    (build-system gnu-build-system)
    (arguments '(#:substitutable? #f))))
