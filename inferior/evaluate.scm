;;; What package inferior defines in a session in order to list packages and
;;; lower them.  Each form is read by package sexp and sent as data, in order;
;;; the calls that follow are (guixci/enumerate REQUEST) and
;;; (guixci/lower INDEX SYSTEM).  The rules are those of 'cuirass-jobs' of
;;; (gnu ci).  What needs that module, which is slow to load, is in modes.scm;
;;; how texts get into the store is in intern.scm.
;;;
;;; All this is interpreted, and what is done for each package is done 30,000
;;; times: what Go can do as well, such as sorting, is left to it.

(use-modules (guix channels)
             (guix derivations)
             (guix describe)
             (guix diagnostics)
             (guix discovery)
             (guix grafts)
             (guix licenses)
             (guix packages)
             (guix store)
             (guix ui)
             (guix utils)
             (gnu packages)
             (ice-9 exceptions)
             (ice-9 match)
             (srfi srfi-1))

;; One connection for the whole session: its caches make lowering fast, and
;; its temporary roots keep the derivations until the session ends.
(define guixci/store (open-connection))

;;;
;;; Exceptions as data.
;;;

(define (guixci/plain obj)
  "Return OBJ as data that can be read back, objects being their printed form."
  (match obj
    ((? string?)
     (if (> (string-length obj) 4000)
         (string-append (string-take obj 4000) "…")
         obj))
    ((or (? symbol?) (? number?) (? boolean?) (? char?) (? keyword?) ())
     obj)
    ((head . tail)
     (cons (guixci/plain head) (guixci/plain tail)))
    (_
     (guixci/plain (object->string obj)))))

(define (guixci/frames stack)
  "Return the innermost frames of STACK that have a source, in the shape of the REPL protocol."
  (let loop ((i 0) (count 0) (result '()))
    (if (or (not stack) (= i (stack-length stack)) (= count 40))
        (reverse result)
        (let ((frame (stack-ref stack i)))
          (match (frame-source frame)
            ((_ (? string? file) (? integer? line) . (? integer? column))
             (loop (+ 1 i) (+ 1 count)
                   (cons `(,(guixci/plain (frame-procedure-name frame))
                           (,file ,line ,column))
                         result)))
            (_
             (loop (+ 1 i) count result)))))))

(define (guixci/message text)
  "Return what TEXT, printed by a guix command, says after the name of the command."
  (let ((at (string-contains text "error: ")))
    (string-trim-both
     (if at
         (string-drop text (+ at (string-length "error: ")))
         text))))

(define (guixci/in-guix-words obj)
  "Return what a guix command would print for the exception OBJ, or the empty string."
  (guixci/message
   (call-with-output-string
     (lambda (port)
       (catch #t
         (lambda ()
           (parameterize ((guix-warning-port port)
                          (current-error-port port))
             (call-with-error-handling
              (lambda () (raise-exception obj)))))
         (const #f))))))

(define (guixci/condition-arguments obj)
  "Return the key and arguments to report for OBJ, an exception object."
  (let ((kind (false-if-exception
               (record-type-name (struct-vtable (first (simple-exceptions obj))))))
        (text (match (guixci/in-guix-words obj)
                ("" (call-with-output-string
                      (lambda (port)
                        (print-exception port #f '%exception (list obj)))))
                (text text))))
    (list (or kind '%exception) #f "~A" (list (string-trim-both text)) #f)))

(define (guixci/exception key args stack printed)
  "Return the exception in the shape of the REPL protocol.  PRINTED is what was
reported before it was thrown."
  (let ((arguments (match (cons key args)
                     (('%exception (? exception? obj))
                      (guixci/condition-arguments obj))
                     (('quit . _)
                      (if (string-null? printed)
                          (cons key args)
                          (list key #f "~A" (list printed) #f)))
                     (thrown thrown))))
    `(exception (arguments ,(guixci/plain (first arguments))
                           ,@(map (lambda (argument)
                                    `(value ,(guixci/plain argument)))
                                  (cdr arguments)))
                (stack ,@(guixci/frames stack)))))

(define (guixci/guard thunk)
  "Return the value of THUNK, a list, or a list of the one exception it threw."
  (let ((stack #f)
        (messages (open-output-string)))
    (define result
      (catch #t
        (lambda ()
          (parameterize ((guix-warning-port messages))
            (thunk)))
        (lambda (key . args)
          (list (guixci/exception key args stack
                                  (guixci/message
                                   (get-output-string messages)))))
        (lambda _
          (set! stack (make-stack #t)))))
    (display (get-output-string messages) (current-error-port))
    result))

;;;
;;; Entries.
;;;
;;; An entry is what may become a job: its identity, a procedure that takes a
;;; system and returns the fields of the job, and an object; entries of one
;;; object that make jobs of one name are the same.
;;;
;;; An identity is the list (STEM SUFFIX NAME VERSION FILE LINE COLUMN).  The
;;; job is called STEM.SYSTEM followed by SUFFIX; STEM if SUFFIX is false.

(define (guixci/entry identity object lower)
  (list identity object lower))

(define guixci/entry-identity first)
(define guixci/entry-object second)
(define guixci/entry-lower third)

(define (guixci/place package)
  "Return the file, line and column of PACKAGE, or empty ones."
  (match (false-if-exception (package-location package))
    (#f '("" 0 0))
    (location (list (location-file location)
                    (location-line location)
                    (location-column location)))))

(define (guixci/plain-identity name)
  "Return the identity of what is no package."
  (list name "" name "" "" 0 0))

(define (guixci/bad-entry name exception)
  "Return the entry of what is called NAME and could not even be found."
  (guixci/entry (guixci/plain-identity name) name
                (const (list exception))))

(define* (guixci/package-entry package kind
                               #:key (before "") (after "") target
                               (valid? (const #t)))
  "Return the entry of PACKAGE, built for TARGET if that is not false.  KIND
says what is built: 'ci', what 'package->job' of (gnu ci) builds; 'supported',
what is supported on the system; 'always', anything.  VALID? is asked first
whether there is a job for a system at all."
  (guixci/entry
   (cons* (string-append before (package-name package)) after
          (package-name package) (package-version package)
          (guixci/place package))
   package
   (lambda (system)
     (if (valid? system)
         (append (guixci/metadata package kind)
                 (guixci/guard
                  (lambda ()
                    (guixci/package-fields package kind system target))))
         '((unsupported))))))

;;;
;;; Which packages.
;;;

;; The system of the last call, and the base packages for it.
(define guixci/system #f)
(define guixci/base '())
(define guixci/guix? #f)                ;was the channel 'guix' asked for?

(define (guixci/modules path)
  "Return the modules of PATH that load, and an entry for each that does not."
  (define broken '())
  (define (module-failed file module args)
    (set! broken
          (cons (guixci/bad-entry (object->string module)
                                  (guixci/exception (car args) (cdr args)
                                                    #f ""))
                broken)))
  (let ((modules (all-modules path #:warn module-failed)))
    (values modules broken)))

(define (guixci/packages wanted?)
  "Return the entries of the packages that satisfy WANTED?, hidden ones and
replacements too, superseded ones not, and of the modules that do not load."
  (define seen (make-hash-table))

  (define (add package result)
    (if (hashq-ref seen package)
        result
        (begin
          (hashq-set! seen package #t)
          (cons package result))))

  (define (adjust package result)
    (cond ((not (wanted? package)) result)
          ((package-replacement package)
           => (lambda (replacement)
                (add replacement (add package result))))
          ((package-superseded package) result)
          (else (add package result))))

  ;; A channel's packages are in its own modules, or made by calls from those
  ;; of another channel, but never in those of Guix: not loading the
  ;; latter saves seconds.
  (define path
    (if guixci/guix?
        (%package-module-path)
        (call-with-values package-path-entries (lambda (scm go) scm))))

  (call-with-values (lambda () (guixci/modules path))
    (lambda (modules broken)
      (append broken
              (map (lambda (package)
                     (guixci/package-entry package 'ci))
                   (fold-packages adjust
                                  (if guixci/guix?
                                      (fold adjust '() (guixci/final-inputs))
                                      '())
                                  modules
                                  #:select? (const #t)))))))

(define (guixci/channel-packages names directories)
  "Return the entries of the packages of the channels called NAMES.  A Guix
that is not from a profile, such as a distribution's, knows no channels: there
all packages but those in DIRECTORIES are of the channel 'guix'."
  (define no-channels? (null? (current-profile-entries)))

  (define (elsewhere? package)
    (match (package-location package)
      (#f #f)
      (location
       (any (lambda (directory)
              (file-exists? (in-vicinity directory (location-file location))))
            directories))))

  (guixci/packages
   (if no-channels?
       (lambda (package)
         (and guixci/guix? (not (elsewhere? package))))
       (lambda (package)
         (any (lambda (channel)
                (memq (channel-name channel) names))
              (package-channels package))))))

(define* (guixci/final-inputs #:optional (system (%current-system)))
  (match ((@ (gnu packages base) %final-inputs) system)
    (((labels packages _ ...) ...)
     packages)))

(define (guixci/base-packages system)
  "Return a table of the packages that build systems use implicitly."
  (let ((table (make-hash-table)))
    (when guixci/guix?
      (for-each (lambda (package)
                  (match (package-transitive-inputs package)
                    (((_ inputs _ ...) ...)
                     (for-each (lambda (input)
                                 (hashq-set! table input #t))
                               inputs))))
                (guixci/final-inputs system)))
    table))

(define (guixci/specified-packages specs)
  (map (lambda (spec)
         (match (guixci/guard (lambda ()
                                (list (specification->package spec))))
           (((? package? package)) (guixci/package-entry package 'always))
           ((exception) (guixci/bad-entry spec exception))))
       specs))

(define (guixci/before? a b)
  "Compare identities by what does not depend on the order of a hash table."
  (match a
    ((stem1 suffix1 name1 version1 file1 line1 column1)
     (match b
       ((stem2 suffix2 name2 version2 file2 line2 column2)
        (cond ((not (string=? file1 file2)) (string<? file1 file2))
              ((not (= line1 line2)) (< line1 line2))
              ((not (= column1 column2)) (< column1 column2))
              ((not (string=? name1 name2)) (string<? name1 name2))
              (else (string<? (or suffix1 "") (or suffix2 "")))))))))

(define (guixci/same-once entries)
  "Return ENTRIES without the later ones of those that are the same."
  (define seen (make-hash-table (length entries)))
  (remove (lambda (entry)
            (let* ((identity (guixci/entry-identity entry))
                   (handle   (hashq-create-handle! seen
                                                   (guixci/entry-object entry)
                                                   '()))
                   (name     (cons (first identity) (second identity))))
              (or (member name (cdr handle))
                  (begin
                    (set-cdr! handle (cons name (cdr handle)))
                    #f))))
          entries))

(define (guixci/distinctions identities)
  "Return what tells IDENTITIES with the same job name apart, a list of
strings: the empty one for the newest version, @VERSION for the others, and
#N if there are several of that version."
  (define groups (make-hash-table))
  (define distinctions (make-hash-table))

  (define (newer? a b)
    (if (string=? (fourth a) (fourth b))
        (guixci/before? a b)
        (version>? (fourth a) (fourth b))))

  (define (distinguish group)
    (match (stable-sort (reverse group) newer?)
      ((_) #f)
      ((newest others ...)
       (fold (lambda (identity before)
               (let* ((version (fourth identity))
                      (count   (+ 1 (or (assoc-ref before version) 0))))
                 (hashq-set! distinctions identity
                             (if (= count 1)
                                 (string-append "@" version)
                                 (format #f "@~a#~a" version count)))
                 (alist-cons version count before)))
             (list (cons (fourth newest) 1))
             others))))

  (for-each (lambda (identity)
              (let ((handle (hash-create-handle! groups
                                                 (cons (first identity)
                                                       (second identity))
                                                 '())))
                (set-cdr! handle (cons identity (cdr handle)))))
            identities)
  (hash-for-each (lambda (key group) (distinguish group)) groups)
  (map (lambda (identity)
         (hashq-ref distinctions identity ""))
       identities))

(define (guixci/add-load-path! directories)
  "Do what 'guix build -L' does."
  (%package-module-path (append directories (%package-module-path)))
  (%patch-path (append directories (%patch-path)))
  (set! %load-path (append directories %load-path))
  (set! %load-compiled-path (append directories %load-compiled-path)))

;; What there is to lower: a vector of entries.
(define guixci/found #())

(define (guixci/rows identities distinctions)
  "Return IDENTITIES and DISTINCTIONS as rows (NAME VERSION LINE COLUMN FILE
DISTINCTION STEM SUFFIX), without FILE and what follows if it is that of the row
before, and without DISTINCTION and what follows where these are the usual ones:
writing 30,000 rows in full takes longer than finding them."
  (define previous #f)
  (map (lambda (identity distinction)
         (match identity
           ((stem suffix name version file line column)
            (let ((same?  (equal? file previous))
                  (usual? (and (equal? suffix "")
                               (string-null? distinction)
                               (string=? stem name))))
              (set! previous file)
              (cons* name version line column
                     (cond ((not usual?)
                            (list file distinction stem suffix))
                           (same? '())
                           (else (list file))))))))
       identities distinctions))

(define (guixci/enumerate request)
  "Find what REQUEST asks for, an association list: the names of 'channels',
specifications of 'packages', 'modes', and so on; 'load-path' are directories in
front of the load path.  Return what distinguishes each, and its identity, in the
order of the vector: the number of those that are packages, whose order does not
matter, and the rows."
  (define (requested key)
    (or (assq-ref request key) '()))

  (guixci/add-load-path! (requested 'load-path))
  (set! guixci/guix? (or (memq 'guix (requested 'channels))
                         (memq 'all (requested 'modes))))
  (let* ((packages (guixci/same-once
                    (append
                     (guixci/specified-packages (requested 'packages))
                     (guixci/mode-packages (requested 'modes))
                     (match (requested 'channels)
                       (() '())
                       (names (guixci/channel-packages
                               names (requested 'load-path)))))))
         (entries  (match (guixci/mode-entries request)
                     (() packages)
                     (more (guixci/same-once (append packages more)))))
         (identities (map guixci/entry-identity entries)))
    (set! guixci/found (list->vector entries))
    (cons (length packages)
          (guixci/rows identities (guixci/distinctions identities)))))

;; These are for what is always there; modes.scm adds the rest.
(define (guixci/mode-packages modes)
  (append-map (match-lambda
                ('hello (guixci/specified-packages '("hello")))
                ('all   (guixci/packages (const #t)))
                (_      '()))
              modes))

(define (guixci/mode-entries request) '())

;;;
;;; Lowering them.
;;;

(define (guixci/licenses package)
  (map (lambda (license)
         (if (license? license)
             (license-name license)
             (object->string license)))
       (match (package-license package)
         ((? list? licenses) licenses)
         (#f '())
         (license (list license)))))

(define-syntax-rule (guixci/field name exp)
  ;; Metadata must not cost the job.
  (match (false-if-exception exp)
    ((? string? value) `((name ,(guixci/plain value))))
    (_ '())))

(define (guixci/base? package kind)
  (and (eq? kind 'ci) (hashq-ref guixci/base package)))

(define (guixci/metadata package kind)
  (append (guixci/field synopsis (package-synopsis package))
          (guixci/field home-page (package-home-page package))
          `((licenses ,@(or (false-if-exception (guixci/licenses package))
                            '()))
            (systems ,@(or (false-if-exception
                            (package-supported-systems package))
                           '())))
          (if (guixci/base? package kind) '((base #t)) '())))

(define (guixci/property package key default)
  (match (assq-ref (package-properties package) key)
    ((? integer? value) value)
    (_ default)))

(define* (guixci/derivation-fields drv
                                   #:key always?
                                   (max-silent-time 3600)
                                   (timeout (* 5 3600)))
  "Return the fields of the job that builds DRV."
  `((derivation ,(derivation-file-name drv))
    (outputs ,@(derivation->output-paths drv))
    (nix-name ,(derivation-name drv))
    (substitutable ,(substitutable-derivation? drv))
    (always ,always?)
    (max-silent-time ,max-silent-time)
    (timeout ,timeout)))

(define (guixci/package-fields package kind system target)
  "Return the fields of PACKAGE's job, or the field that says why there is none."
  (if (or (eq? kind 'always)
          (guixci/base? package kind)
          (supported-package? package system))
      (guixci/derivation-fields
       (if target
           (package-cross-derivation guixci/store package target system
                                     #:graft? #f)
           (package-derivation guixci/store package system #:graft? #f))
       #:always? (not (eq? kind 'ci))
       #:max-silent-time (guixci/property package 'max-silent-time 3600)
       #:timeout (guixci/property package 'timeout 72000))
      '((unsupported))))

(define (guixci/lower index system)
  "Return the fields of the job of the entry at INDEX for SYSTEM; for an entry
that makes several jobs, one field with the fields of each; 'stale' if this session
cannot tell any more."
  (unless (equal? system guixci/system)
    (invalidate-derivation-caches!)
    (set! guixci/system system)
    (set! guixci/base (guixci/base-packages system)))
  ;; Grafting is meant to happen on the user's machines.
  (let ((fields (parameterize ((%graft? #f))
                  ((guixci/entry-lower (vector-ref guixci/found index))
                   system))))
    (if (guixci/kept? fields)
        fields
        '((stale)))))
