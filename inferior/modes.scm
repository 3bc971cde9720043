;;; What package inferior defines beside evaluate.scm in a session that is asked
;;; for more than packages: the other build modes of Cuirass, manifests, and
;;; modules that make jobs of their own.  Where (gnu ci) makes one job at a time
;;; its procedures are called; where it makes many at once, so that one
;;; exception would cost all, the list is made here.

(use-modules (gnu)
             (gnu bootloader)
             (gnu ci)
             (gnu image)
             (gnu system image)
             (gnu system install)
             (gnu tests)
             (guix config)
             (guix gexp)
             (guix monads)
             (guix platform)
             (guix profiles)
             (guix transformations)
             ((gnu packages package-management)
              #:select (current-guix-package channel-source->package)))

;; What (gnu ci) does not export, and may have been compiled away.

(define (guixci/ci name default)
  "Return what NAME is in (gnu ci), or DEFAULT."
  (match (module-variable (resolve-module '(gnu ci)) name)
    (#f default)
    (variable (variable-ref variable))))

(define guixci/architectures
  (guixci/ci '%x86-64-micro-architectures
             '("haswell" "skylake" "x86-64-v2" "x86-64-v3" "x86-64-v4")))

(define guixci/targets-left-out
  (append (guixci/ci '%bare-platform-triplets
                     '("avr" "or1k-elf" "xtensa-ath9k-elf"))
          (guixci/ci '%unsupported-platform-triplets
                     '("mips64el-linux-gnu"
                       "powerpc-linux-gnu"
                       "powerpc64-linux-gnu"))))

(define guixci/image-systems
  (guixci/ci '%guix-system-supported-systems '("x86_64-linux" "i686-linux")))

(define guixci/board-images
  (guixci/ci '%guix-system-images
             (map (lambda (module name)
                    (module-ref (resolve-interface module) name))
                  '((gnu system images hurd)
                    (gnu system images pine64)
                    (gnu system images pinebook-pro)
                    (gnu system images novena)
                    (gnu system images visionfive2))
                  '(hurd-barebones-qcow2-image
                    pine64-barebones-raw-image
                    pinebook-pro-barebones-raw-image
                    novena-barebones-raw-image
                    visionfive2-barebones-raw-image))))

;;;
;;; Packages.
;;;

(define (guixci/tuned entry)
  "Return the entries of the tuned variants of the package of ENTRY."
  (match (guixci/entry-object entry)
    ((? package? package)
     (if (tunable-package? package)
         (filter-map (lambda (architecture)
                       (false-if-exception
                        (guixci/package-entry
                         (tuned-package package architecture) 'ci
                         #:after (string-append "." architecture)
                         #:valid? (lambda (system)
                                    (string=? system "x86_64-linux")))))
                     guixci/architectures)
         '()))
    (_ '())))

(define (guixci/core-packages)
  (append
   (filter-map (lambda (object)
                 (and (package? object)
                      (guixci/package-entry object 'supported)))
               (module-map (lambda (symbol variable)
                             (and (variable-bound? variable)
                                  (variable-ref variable)))
                           (resolve-module '(gnu packages commencement))))
   (map (lambda (package)
          (guixci/package-entry package 'always))
        %core-packages)))

(define (guixci/crossed? target system)
  "Return true if (gnu ci) builds for TARGET on SYSTEM."
  (define (prefixed? . prefixes)
    (any (lambda (prefix)
           (string-prefix? prefix system))
         prefixes))

  (and (member system '("x86_64-linux" "i686-linux"))
       (not (member target guixci/targets-left-out))
       (not (and (prefixed? "i686-")
                 (or (string-contains target "64")
                     (string-contains target "mingw"))))
       (or (not (string-contains target system))
           (string=? target "x86_64-linux-gnux32"))))

(define (guixci/cross-packages)
  (append-map
   (lambda (target)
     (map (lambda (package)
            (guixci/package-entry package 'always
                                  #:before (string-append target ".")
                                  #:target target
                                  #:valid? (lambda (system)
                                             (guixci/crossed? target system))))
          ;; Not the bootstrap tarballs for MinGW.
          (if (string-contains target "mingw")
              (drop-right %core-packages 6)
              %core-packages)))
   (targets)))

(define guixci/simple-mode-packages guixci/mode-packages)

(define (guixci/mode-packages modes)
  (let ((packages (guixci/simple-mode-packages modes)))
    (append packages
            (if (memq 'all modes)
                (append-map guixci/tuned packages)
                '())
            (if (memq 'core modes)
                (guixci/core-packages)
                '()))))

;;;
;;; What is no package.
;;;

(define (guixci/cuirass-fields job)
  "Return the fields of JOB, an association list as 'derivation->job' makes it."
  (let ((drv (read-derivation-from-file (assq-ref job #:derivation)))
        (name (assq-ref job #:job-name)))
    `((name ,(if (symbol? name) (symbol->string name) name))
      ,@(guixci/derivation-fields
         drv
         #:always? #t
         #:max-silent-time (or (assq-ref job #:max-silent-time) 3600)
         #:timeout (or (assq-ref job #:timeout) (* 5 3600))))))

(define* (guixci/job-entry stem thunk
                           #:key (suffix "") (object stem)
                           (systems guixci/image-systems))
  "Return the entry of the jobs that THUNK, called with the system, returns a
list of, if that is one of SYSTEMS or SYSTEMS is false."
  (define (jobs system)
    `((jobs ,@(map guixci/cuirass-fields (thunk system)))))

  (guixci/entry (cons* stem suffix (cddr (guixci/plain-identity stem)))
                object
                (lambda (system)
                  (if (or (not systems) (member system systems))
                      (guixci/guard (lambda () (jobs system)))
                      '((unsupported))))))

(define (guixci/whole-mode-entry mode stem channels)
  "Return the entry of MODE, a mode in which (gnu ci) makes one job for a
system, called STEM.SYSTEM."
  (guixci/job-entry stem
                    (lambda (system)
                      (cuirass-jobs guixci/store
                                    `((channels . ,channels)
                                      (systems . (,system))
                                      (subset . ,mode))))
                    #:systems #f))

(define (guixci/guix-package source commit)
  "Return a promise of the package of the Guix in SOURCE."
  (delay (channel-source->package source #:commit commit)))

(define (guixci/image-entries source commit)
  (define guix (guixci/guix-package source commit))

  (define* (entry name image #:key (systems guixci/image-systems))
    (guixci/job-entry name
                      (lambda (system)
                        (parameterize ((current-guix-package (force guix)))
                          (list (image->job guixci/store (image system)
                                            #:name name #:system system))))
                      #:systems systems))

  (cons* (entry "usb-image"
                (lambda (system)
                  (image (inherit mbr-hybrid-disk-image)
                         (operating-system installation-os))))
         (entry "iso9660-image"
                (lambda (system)
                  (image
                   (inherit (image-with-label
                             iso9660-image
                             (string-append "GUIX_" system "_"
                                            (string-take
                                             %guix-version
                                             (min 7 (string-length
                                                     %guix-version))))))
                   (operating-system installation-os))))
         (map (lambda (image)
                (entry (symbol->string (image-name image)) (const image)
                       #:systems '("x86_64-linux")))
              guixci/board-images)))

(define (guixci/system-test-entries source commit)
  (define guix (guixci/guix-package source commit))

  (define (entry test)
    (define stem (string-append "test." (system-test-name test)))
    (guixci/job-entry
     stem
     (lambda (system)
       (parameterize ((current-guix-package (force guix)))
         (list (derivation->job
                (string-append stem "." system)
                (run-with-store guixci/store
                  (mbegin %store-monad
                    (set-current-system system)
                    (set-grafting #f)
                    (set-guile-for-build (default-guile))
                    (system-test-value test)))))))
     #:object test))

  (map entry (all-system-tests)))

;;;
;;; Manifests and modules.
;;;

(define (guixci/load-manifest file)
  (save-module-excursion
   (lambda ()
     (set-current-module (make-user-module '((guix profiles) (gnu))))
     (primitive-load file))))

(define (guixci/manifest-entry entry)
  "Return our entry for ENTRY of a manifest."
  (define object (manifest-entry-item entry))

  (define (lowered system)
    (define (property key default)
      (if (package? object)
          (guixci/property object key default)
          default))
    (guixci/derivation-fields
     (run-with-store guixci/store (lower-object object system)
       #:system system)
     #:always? #t
     #:max-silent-time (property 'max-silent-time 3600)
     #:timeout (property 'timeout (* 5 3600))))

  (guixci/entry
   (cons* (string-append (manifest-entry-name entry) "-"
                         (manifest-entry-version entry))
          #f (manifest-entry-name entry) (manifest-entry-version entry)
          (if (package? object) (guixci/place object) '("" 0 0)))
   entry
   (lambda (system)
     (append (if (package? object)
                 (guixci/metadata object 'always)
                 '((licenses)))
             (guixci/guard (lambda () (lowered system)))))))

(define (guixci/manifest-entries files directories)
  "Return the entries of the manifests in FILES, which are looked up in
DIRECTORIES."
  (define (find-manifest file)
    (or (any (lambda (directory)
               (let ((path (in-vicinity directory file)))
                 (and (file-exists? path) path)))
             directories)
        (and (absolute-file-name? file) file)
        (error "manifest not found in any channel" file)))

  (define (entries file)
    ;; Either entries of the manifest, or one of ours.
    (match (guixci/guard
            (lambda ()
              (manifest-entries (guixci/load-manifest (find-manifest file)))))
      ((('exception . rest))
       (list (guixci/bad-entry file (cons 'exception rest))))
      (entries entries)))

  (map (lambda (entry)
         (if (manifest-entry? entry)
             (guixci/manifest-entry entry)
             entry))
       (delete-duplicates (append-map entries files)
                          (lambda (a b)
                            (and (manifest-entry? a) (manifest-entry? b)
                                 (manifest-entry=? a b))))))

(define (guixci/module-entries modules channels)
  "Return one entry for each of MODULES, whose 'cuirass-jobs' makes the jobs."
  (map (lambda (module)
         (guixci/job-entry
          (object->string module)
          (lambda (system)
            ((module-ref (resolve-interface module) 'cuirass-jobs)
             guixci/store
             `((channels . ,channels)
               (systems . (,system))
               (subset . (custom ,module)))))
          #:systems #f))
       modules))

(define (guixci/channel-sexp checkout)
  "Return CHECKOUT in the form that 'cuirass-jobs' expects a channel in."
  (match checkout
    ((name directory commit)
     `(repository (version 0)
                  (url ,directory)
                  (branch #f)
                  (commit ,commit)
                  (name ,name)))))

(define (guixci/mode-entries request)
  (define (requested key)
    (or (assq-ref request key) '()))

  (define checkouts (requested 'checkouts))
  (define modes (requested 'modes))
  (define-values (source commit)
    (match (assq 'guix checkouts)
      ((_ directory commit) (values directory commit))
      (#f (values #f #f))))

  (define channels
    ;; (gnu ci) does not do without a guix, even where it needs none.
    (map guixci/channel-sexp
         (if (assq 'guix checkouts)
             checkouts
             (cons '(guix "/" #f) checkouts))))

  (define (mode-entries mode)
    (match mode
      ('guix         (list (guixci/whole-mode-entry mode "guix" channels)))
      ('tarball      (list (guixci/whole-mode-entry mode "binary-tarball"
                                                    channels)))
      ('images       (guixci/image-entries source commit))
      ('system-tests (guixci/system-test-entries source commit))
      (_             '())))

  (append (append-map mode-entries modes)
          (if (or (memq 'all modes) (memq 'core modes))
              (guixci/cross-packages)
              '())
          (guixci/manifest-entries (requested 'manifests)
                                   (map second checkouts))
          (guixci/module-entries (requested 'modules)
                                 (map guixci/channel-sexp checkouts))))
