;;; The system that runs the project: guix system container --network FILE.
;;;
;;; One artefact, many environments: what differs between them is mounted when it is
;;; run.  /etc/sample holds the settings: the file "port" says where the web service
;;; listens.  /var/lib/sample holds its state.

(use-modules (gnu)
             (gnu services shepherd)
             (guix gexp)
             (sample-project))

(define web
  ;; Serve the greeting, and the README of the package.
  (program-file
   "sample-web"
   #~(begin
       (add-to-load-path (string-append #$sample-project "/share/guile/site/3.0"))
       (use-modules (web request) (web server) (web uri)
                    (ice-9 textual-ports))
       (define greeting
         (module-ref (resolve-interface '(sample greeting)) 'greeting))
       (define (file-text name)
         (call-with-input-file name get-string-all))
       (define (answer request body)
         (define path (uri-path (request-uri request)))
         (values '((content-type . (text/plain)))
                 (if (string=? path "/README")
                     (file-text (string-append #$sample-project
                                               "/share/sample-project/README"))
                     (greeting "world"))))
       (run-server answer 'http
                   (list #:port (string->number
                                 (string-trim-both (file-text "/etc/sample/port"))))))))

(define keeper
  ;; Count the starts in the state directory, then stay.
  (program-file
   "sample-keeper"
   #~(begin
       (use-modules (ice-9 textual-ports))
       (define file "/var/lib/sample/starts")
       (define starts
         (if (file-exists? file)
             (string->number (string-trim-both (call-with-input-file file get-string-all)))
             0))
       (call-with-output-file file
         (lambda (port)
           (display (+ 1 starts) port)))
       (format #t "start number ~a~%" (+ 1 starts))
       (let loop ()
         (sleep 3600)
         (loop)))))

(define (forked name requirement program)
  (shepherd-service
    (provision (list name))
    (requirement requirement)
    (start #~(make-forkexec-constructor (list #$program)))
    (stop #~(make-kill-destructor))))

(operating-system
  (host-name "sample")
  (timezone "Etc/UTC")
  (bootloader (bootloader-configuration
                (bootloader grub-bootloader)
                (targets '("/dev/null"))))
  (file-systems (cons (file-system
                        (device "none")
                        (mount-point "/")
                        (type "tmpfs"))
                      %base-file-systems))
  (packages '())
  (services
   (list (simple-service 'sample shepherd-root-service-type
                         (list (forked 'keeper '(user-processes) keeper)
                               (forked 'web '(user-processes keeper) web))))))
