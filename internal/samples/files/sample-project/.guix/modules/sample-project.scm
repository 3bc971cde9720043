;;; The package of this project, built from the checkout it is part of.

(define-module (sample-project)
  #:use-module (guix build-system gnu)
  #:use-module (guix gexp)
  #:use-module (guix git-download)
  #:use-module ((guix licenses) #:prefix license:)
  #:use-module (guix packages)
  #:use-module (guix utils)
  #:use-module (gnu packages base)
  #:use-module (gnu packages bash)
  #:use-module (gnu packages guile)
  #:use-module (sample packages)
  #:export (sample-project))

(define checkout
  (string-append (current-source-directory) "/../.."))

(define-public sample-project
  (package
    (name "sample-project")
    (version "1.0")
    (source (local-file checkout "sample-project-checkout"
                        #:recursive? #t
                        #:select? (or (git-predicate checkout)
                                      (const #t))))
    (build-system gnu-build-system)
    (arguments
     (list #:implicit-inputs? #f
           #:strip-binaries? #f
           #:validate-runpath? #f
           #:phases
           #~(modify-phases %standard-phases
               (delete 'configure)
               (delete 'build)
               (replace 'check
                 (lambda* (#:key tests? #:allow-other-keys)
                   (when tests?
                     (invoke "guile" "--no-auto-compile" "-L" "src"
                             "tests/run.scm"))))
               (replace 'install
                 (lambda _
                   (copy-recursively "src" (string-append #$output "/share/guile/site/3.0"))
                   (let ((doc (string-append #$output "/share/sample-project")))
                     (mkdir-p doc)
                     (copy-file "README" (string-append doc "/README"))
                     (copy-file #$(file-append sample-hello "/hello")
                                (string-append doc "/hello"))))))))
    (native-inputs (list bash-minimal coreutils guile-3.0))
    (home-page "https://example.org/sample-project")
    (synopsis "Project that is its own channel")
    (description "This package is built from the checkout its definition is part of.")
    (license license:gpl3+)))
