;;; The build script of the sample 'guix' channel.
;;;
;;; 'guix pull' builds the channel named 'guix' by loading this very file and calling
;;; the procedure it returns ((guix channels), build-from-source).  That of the real
;;; Guix builds Guix; this one returns a Guix whose modules are those of the
;;; Guix that runs it, which takes a second instead of an hour.  It is a distribution
;;; of few packages: Guix's are there to be used, but only those of other channels are
;;; listed, so that listing them all, which every pull does, takes seconds too.  All that
;;; comes after, channel modules, package cache, profile, provenance, is Guix's own.

(use-modules (guix gexp))

(define (entry path file)
  ;; The directory of PATH that has FILE.
  (let ((found (or (search-path path file)
                   (error "this Guix has no" file))))
    (string-drop-right found (+ 1 (string-length file)))))

(define modules (entry %load-path "guix/channels.scm"))
(define compiled (entry %load-compiled-path "guix/channels.go"))

(define guix-command
  ;; Guix knows a modern Guix by an input derivation of this name.
  (program-file "guix-command"
                #~(begin
                    (set! %load-path (cons #$modules %load-path))
                    (set! %load-compiled-path
                      (cons #$compiled %load-compiled-path))
                    (let ((path (module-ref (resolve-interface '(gnu packages))
                                            '%package-module-path)))
                      (path (filter (lambda (entry)
                                      (not (and (pair? entry)
                                                (string=? "gnu/packages" (cdr entry)))))
                                    (path))))
                    (apply (module-ref (resolve-interface '(guix ui)) 'guix-main)
                           (command-line)))))

(lambda* (source #:key system #:allow-other-keys)
  "Return, as a monadic value, the derivation of a Guix for the checkout SOURCE."
  (lower-object
   (computed-file "guix-sample"
                  #~(begin
                      (mkdir #$output)
                      (mkdir (string-append #$output "/bin"))
                      (symlink #$guix-command (string-append #$output "/bin/guix"))
                      ;; Another commit is another Guix, as in real life.
                      (symlink #$source (string-append #$output "/source"))))
   system))
