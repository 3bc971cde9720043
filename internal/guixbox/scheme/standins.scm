;;; Make stand-ins for the packages that derivations need.
;;;
;;; usage: guix repl standins.scm TABLE DRV…
;;;
;;; Without a network nothing can be downloaded, so nothing that starts from a
;;; source can be built.  But what guixci works on, channels, profiles, system
;;; services, containers, needs only a few dozen packages *directly*.  This walks
;;; the graph of each DRV; where it meets a package that TABLE knows, it stops and
;;; makes that package's very store items out of the Debian packages TABLE gives,
;;; as trees of links, registered as valid.  Whatever else it meets is walked
;;; through and left for guix-daemon to build.  A download met on the way means
;;; that TABLE lacks a package: that is an error which names it.
;;;
;;; TABLE is a file with one list: ((NAME PART …) …).  A PART is the name of a
;;; Debian package, or (copy FILE PLACE): guix-daemon refuses a builder that resolves to
;;; a file outside the store, so the programs that serve as builders are copies.
;;; A package with no parts becomes an empty directory.
;;; Prints (standins MADE FOUND) on standard output: how many items were made,
;;; and how many were there already.

(use-modules (guix store)
             (guix derivations)
             (guix store database)
             (guix build store-copy)
             (guix build utils)
             (guix packages)
             (ice-9 match)
             (ice-9 popen)
             (ice-9 rdelim)
             (ice-9 ftw)
             (srfi srfi-1)
             (srfi srfi-26))

(define (fail message . args)
  (apply format (current-error-port) (string-append message "~%") args)
  (exit 1))

(define (derivation-version drv)
  ;; What follows NAME- in the name of DRV, when it looks like a version.
  (define name (derivation-name drv))
  (let loop ((start 0))
    (match (string-index name #\- start)
      (#f #f)
      (dash (if (and (< (+ 1 dash) (string-length name))
                     (char-numeric? (string-ref name (+ 1 dash))))
                (cons (string-take name dash) (string-drop name (+ 1 dash)))
                (loop (+ 1 dash)))))))

(define (package-name drv)
  ;; The name of the package that DRV builds, or #f.  Guix marks its other
  ;; derivations (profiles, modules, services) with properties, or gives them no
  ;; version; the script that builds a package is called NAME-VERSION-builder.
  (and (not (assoc "guix properties" (derivation-builder-environment-vars drv)))
       (not (fixed-output-derivation? drv))
       (any (cut string-suffix?
                 (string-append (derivation-name drv) "-builder") <>)
            (derivation-builder-arguments drv))
       (and=> (derivation-version drv) car)))

(define (download? drv)
  (string-prefix? "builtin:" (derivation-builder drv)))

(define (frontier table drvs)
  ;; The derivations to replace, as (NAME . DERIVATION).
  (define seen (make-hash-table))
  (define found '())
  (define (visit drv way)
    ;; WAY is the packages on the way to DRV, the last one first.
    (define file (derivation-file-name drv))
    (unless (hash-ref seen file)
      (hash-set! seen file #t)
      (match (package-name drv)
        ((? (cut assoc <> table) name)
         (set! found (alist-cons name drv found)))
        (name
         (when (download? drv)
           (fail "~s would have to be downloaded, to build ~a: add one of these to the table, with the Debian packages that contain it"
                 (derivation-name drv) (string-join (reverse way) ", for ")))
         (for-each (cut visit <> (if name (cons name way) way))
                   (map derivation-input-derivation (derivation-inputs drv)))))))
  (for-each (cut visit <> '()) drvs)
  found)

(define (debian-files package)
  (define pipe (open-pipe* OPEN_READ "dpkg-query" "-L" package))
  (define files
    (let loop ((files '()))
      (match (read-line pipe)
        ((? eof-object?) (reverse files))
        (line (loop (cons line files))))))
  (unless (zero? (status:exit-val (close-pipe pipe)))
    (fail "Debian package ~s, of which a stand-in is to be made, is not installed" package))
  files)

(define (target file)
  ;; Where FILE of a Debian package stands in a Guix package.
  (let* ((file (if (string-prefix? "/usr/" file) (string-drop file 4) file)))
    (cond ((string-prefix? "/lib/x86_64-linux-gnu/" file)
           (string-append "/lib" (string-drop file 21)))
          ((string-prefix? "/lib64/" file)
           (string-append "/lib" (string-drop file 6)))
          (else file))))

(define (place file item)
  ;; Make FILE of a Debian package appear in ITEM.
  (define to (string-append item (target file)))
  (define real (false-if-exception (canonicalize-path file)))
  (when (and real
             (not (eq? 'directory (stat:type (stat real))))
             (not (false-if-exception (lstat to))))
    (mkdir-p (dirname to))
    (symlink real to)))

(define (put part item)
  (match part
    (('copy file to)
     (let ((to (string-append item to)))
       (mkdir-p (dirname to))
       (copy-file file to)
       (chmod to #o555)))
    (package
     (for-each (cut place <> item) (debian-files package)))))

(define (make-item output item parts)
  (define temporary (string-append item ".making"))
  (when (file-exists? temporary) (delete-file-recursively temporary))
  (mkdir-p temporary)
  (when (string=? output "out")
    (for-each (cut put <> temporary) parts))
  (for-each (lambda (file) (chmod file #o555))
            (find-files temporary (lambda (file stat) (eq? 'directory (stat:type stat)))
                        #:directories? #t))
  (rename-file temporary item))

(define roots
  ;; What is made once must survive a garbage collection: it cannot be built again.
  "/var/guix/gcroots/standins")

(define (main table-file . files)
  (define table (call-with-input-file table-file read))
  (define drvs (map read-derivation-from-file files))
  (define wanted
    ;; (NAME OUTPUT ITEM DERIVATION)
    (append-map (match-lambda
                  ((name . drv)
                   (map (match-lambda
                          ((output . item) (list name output item drv)))
                        (derivation->output-paths drv))))
                (frontier table drvs)))
  (define missing
    (with-store store
      (remove (match-lambda
                ((_ _ item _) (and (file-exists? item) (valid-path? store item))))
              wanted)))
  (umask #o022)
  (for-each (match-lambda
              ((name output item drv)
               (when (false-if-exception (lstat item))
                 (delete-file-recursively item)) ;left by an interrupted run
               (make-item output item (assoc-ref table name))))
            missing)
  (unless (null? missing)
    (with-database (string-append (or (getenv "GUIX_DATABASE_DIRECTORY") "/var/guix/db")
                                  "/db.sqlite") db
      (register-items db
                      (map (match-lambda
                             ((_ _ item _) (store-info item #f '())))
                           missing)
                      #:log-port (%make-void-port "w"))))
  (mkdir-p roots)
  (for-each (match-lambda
              ((_ _ item _)
               (let ((root (string-append roots "/" (basename item))))
                 (unless (false-if-exception (lstat root))
                   (symlink item root)))))
            wanted)
  (write `(standins ,(length missing) ,(- (length wanted) (length missing))))
  (newline))

(apply main (cdr (command-line)))
