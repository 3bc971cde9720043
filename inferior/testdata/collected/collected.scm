;; Packages named for the process that tests with them, so that they are new.
(define-module (collected)
  #:use-module (guix gexp)
  #:use-module (guix packages)
  #:use-module (guix build-system trivial)
  #:use-module ((guix licenses) #:prefix license:))

(define (package-called name inputs)
  (package
    (name (string-append name "-" (or (getenv "GUIXCI_TEST_NAME") "unnamed")))
    (version "1.0")
    (source #f)
    (build-system trivial-build-system)
    (arguments (list #:builder #~(mkdir #$output)))
    (inputs inputs)
    (home-page "https://example.org")
    (synopsis "Package of a test")
    (description "It makes a directory.")
    (license license:gpl3+)))

(define-public below
  (package-called "below" '()))

;; It throws when what is below it has been lowered already.
(define-public broken
  (package-called "broken"
                  (list below
                        (package
                          (inherit (package-called "thrower" '()))
                          (arguments (list #:builder (throw 'misery)))))))

(define-public above
  (package-called "above" (list below)))
