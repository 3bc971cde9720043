;;; What package inferior defines in a session in order to list packages and
;;; lower them.  Each form is read by package sexp and sent as data, in order;
;;; the calls that follow are (guixci/enumerate CHANNELS SPECS LOAD-PATH) and
;;; (guixci/lower INDEX SYSTEM).  The rules are those of 'channels' and
;;; 'packages' in 'cuirass-jobs' of (gnu ci).

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
;;; Which packages.
;;;

;; Each element is a package of a channel; or (always . PACKAGE), one that
;; was asked for by specification; or (NAME . EXCEPTION), a package or module
;; that could not be found or loaded.
(define guixci/found #())

;; The system of the last call, and the base packages for it.
(define guixci/system #f)
(define guixci/base '())
(define guixci/guix? #f)                ;was the channel 'guix' asked for?

(define (guixci/channel-packages names)
  "Return the packages of the channels called NAMES, hidden ones and
replacements too, superseded ones not, and a pair for each module that does not load."
  (define broken '())

  (define (module-failed file module args)
    (set! broken
          (cons (cons (object->string module)
                      (guixci/exception (car args) (cdr args) #f ""))
                broken)))

  (define (wanted? package)
    (any (lambda (channel)
           (memq (channel-name channel) names))
         (package-channels package)))

  (define (adjust package result)
    (cond ((not (wanted? package)) result)
          ((package-replacement package)
           => (lambda (replacement) (cons* replacement package result)))
          ((package-superseded package) result)
          (else (cons package result))))

  ;; A channel's packages are in its own modules, or made by calls from those
  ;; of another channel, but never in those of Guix: not loading the
  ;; latter saves seconds.
  (define path
    (if guixci/guix?
        (%package-module-path)
        (call-with-values package-path-entries (lambda (scm go) scm))))

  (define packages
    (fold-packages adjust
                   (if guixci/guix?
                       (fold adjust '() (guixci/final-inputs))
                       '())
                   (all-modules path #:warn module-failed)
                   #:select? (const #t)))

  (append broken (delete-duplicates packages eq?)))

(define* (guixci/final-inputs #:optional (system (%current-system)))
  (match ((@ (gnu packages base) %final-inputs) system)
    (((labels packages _ ...) ...)
     packages)))

(define (guixci/base-packages system)
  (if guixci/guix?
      (append-map (lambda (package)
                    (match (package-transitive-inputs package)
                      (((_ inputs _ ...) ...)
                       inputs)))
                  (guixci/final-inputs system))
      '()))

(define (guixci/specified-packages specs)
  (map (lambda (spec)
         (match (guixci/guard (lambda ()
                                (list (specification->package spec))))
           (((? package? package)) (cons 'always package))
           ((exception) (cons spec exception))))
       specs))

(define (guixci/place package)
  "Return the file, line and column of PACKAGE, or empty ones."
  (match (false-if-exception (package-location package))
    (#f '("" 0 0))
    (location (list (location-file location)
                    (location-line location)
                    (location-column location)))))

(define (guixci/identity entry)
  "Return the name, version, file, line and column of ENTRY."
  (match entry
    ((or ('always . package) (? package? package))
     (cons* (package-name package) (package-version package)
            (guixci/place package)))
    ((name . _)
     (list name "" "" 0 0))))

(define (guixci/before? a b)
  "Compare identities: by file, so that neighbours share what they load, then
by what makes the order the same in every session."
  (match (list a b)
    (((name1 version1 file1 line1 column1) (name2 version2 file2 line2 column2))
     (cond ((not (string=? file1 file2)) (string<? file1 file2))
           ((not (= line1 line2)) (< line1 line2))
           ((not (= column1 column2)) (< column1 column2))
           ((not (string=? name1 name2)) (string<? name1 name2))
           (else (string<? version1 version2))))))

(define (guixci/add-load-path! directories)
  "Do what 'guix build -L' does."
  (%package-module-path (append directories (%package-module-path)))
  (%patch-path (append directories (%patch-path)))
  (set! %load-path (append directories %load-path))
  (set! %load-compiled-path (append directories %load-compiled-path)))

(define (guixci/enumerate names specs directories)
  "Find the packages of the channels called NAMES, a list of symbols, and those
called SPECS, a list of strings, with DIRECTORIES in front of the load path.
Return their identities."
  (guixci/add-load-path! directories)
  (set! guixci/guix? (memq 'guix names))
  (let* ((entries (append (if (null? names)
                              '()
                              (guixci/channel-packages names))
                          (guixci/specified-packages specs)))
         (sorted  (stable-sort (map (lambda (entry)
                                      (cons (guixci/identity entry) entry))
                                    entries)
                               (lambda (a b)
                                 (guixci/before? (car a) (car b))))))
    (set! guixci/found (list->vector (map cdr sorted)))
    (map car sorted)))

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

(define (guixci/metadata package)
  (append (guixci/field synopsis (package-synopsis package))
          (guixci/field home-page (package-home-page package))
          `((licenses ,@(or (false-if-exception (guixci/licenses package))
                            '())))
          (if (memq package guixci/base) '((base #t)) '())))

(define (guixci/property package key default)
  (match (assq-ref (package-properties package) key)
    ((? integer? value) value)
    (_ default)))

(define (guixci/job package system always?)
  "Return the fields of PACKAGE's job, or the field that says why there is none."
  (if (or always?
          (memq package guixci/base)
          (supported-package? package system))
      (let ((drv (parameterize ((%graft? #f))
                   (package-derivation guixci/store package system
                                       #:graft? #f))))
        `((derivation ,(derivation-file-name drv))
          (outputs ,@(derivation->output-paths drv))
          (nix-name ,(derivation-name drv))
          (substitutable ,(substitutable-derivation? drv))
          (always ,always?)
          (max-silent-time ,(guixci/property package 'max-silent-time 3600))
          (timeout ,(guixci/property package 'timeout 72000))))
      '((unsupported))))

(define (guixci/lower index system)
  "Return the fields of the job of the package at INDEX for SYSTEM."
  (unless (equal? system guixci/system)
    (invalidate-derivation-caches!)
    (set! guixci/system system)
    (set! guixci/base (guixci/base-packages system)))
  (define (fields package always?)
    (append (guixci/metadata package)
            (guixci/guard (lambda () (guixci/job package system always?)))))
  (match (vector-ref guixci/found index)
    ((? package? package) (fields package #f))
    (('always . package) (fields package #t))
    ((_ . exception) (list exception))))
