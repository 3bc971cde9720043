;;; What guixci's samples, tests and demo need of Guix's packages.
;;;
;;; usage: guix repl workload.scm TABLE
;;;
;;; Prints the derivations of one of each: every package of TABLE, a profile with
;;; the hooks that 'guix pull' runs, and a system container.  The packages these
;;; need directly are those that standins.scm then makes.

(use-modules (guix)
             (guix grafts)
             (guix profiles)
             (gnu)
             (gnu system linux-container)
             (srfi srfi-1)
             (ice-9 match))

(define os
  (operating-system
    (host-name "workload")
    (timezone "Etc/UTC")
    (bootloader (bootloader-configuration
                 (bootloader grub-bootloader)
                 (targets '("/dev/null"))))
    (file-systems %base-file-systems)
    (packages '())
    (services '())))

(define hooks-profile
  (profile (content (manifest (list (manifest-entry
                                      (name "workload")
                                      (version "1")
                                      (item (plain-file "workload" ""))))))))

(define (packages table)
  (filter-map (match-lambda
                ((name . _)
                 (match (find-packages-by-name name)
                   ((package . _) package)
                   (() #f))))
              table))

(define (derivations store table)
  (append
   (append-map (lambda (graft?)
                 (parameterize ((%graft? graft?))
                   (map (lambda (package) (package-derivation store package))
                        (packages table))))
               '(#f #t))
   (map (lambda (object)
          (run-with-store store (lower-object object)))
        (list hooks-profile))
   (map (lambda (network?)
          (run-with-store store
            (container-script os #:shared-network? network?)))
        '(#t #f))))

(define (main table-file)
  (define table (call-with-input-file table-file read))
  (with-store store
    (for-each (lambda (drv)
                (display (derivation-file-name drv))
                (newline))
              (derivations store table))))

(apply main (cdr (command-line)))
