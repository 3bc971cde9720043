;; The system that the tests against a real container run.  Build it with
;;   guix system container --network -L container/testdata \
;;     -e '((@ (sample-system) sample-system) #:port 8791 #:greeting "one")'
(define-module (sample-system)
  #:use-module (gnu)
  #:use-module (gnu services)
  #:use-module (gnu services shepherd)
  #:use-module (guix gexp)
  #:export (sample-system))

(define (web port greeting)
  "A server that answers GREETING."
  (program-file "sample-web"
    #~(begin
        (use-modules (web server))
        (run-server (lambda (request body)
                      (values '((content-type . (text/plain))) #$greeting))
                    'http '(#:port #$port)))))

(define (counter)
  "A program that counts its starts in /srv/state/starts, and then sleeps."
  (program-file "sample-counter"
    #~(let* ((file "/srv/state/starts")
             (port (open-file file "a")))
        (display "started\n" port)
        (close-port port)
        (display "counter is counting\n")
        (force-output)
        (sleep 1000000))))

(define (broken)
  (program-file "sample-broken"
    #~(begin
        (display "cannot read /etc/sample.conf: no such file\n")
        (force-output)
        (exit 3))))

(define (services port greeting mode)
  (append
   (list (shepherd-service
          (provision '(setup)) (one-shot? #t)
          (start #~(lambda () (mkdir "/run/sample") #t)))
         (shepherd-service
          (provision '(web)) (requirement '(user-processes setup))
          (start #~(make-forkexec-constructor (list #$(web port greeting))))
          (stop #~(make-kill-destructor)))
         (shepherd-service
          (provision '(counter)) (requirement '(user-processes))
          (start #~(make-forkexec-constructor (list #$(counter))))
          (stop #~(make-kill-destructor))))
   (case mode
     ((fails)                           ;never comes up
      (list (shepherd-service
             (provision '(broken)) (requirement '(user-processes))
             (start #~(make-forkexec-constructor
                       (list #$(broken))
                       #:pid-file "/run/sample-broken.pid"
                       #:pid-file-timeout 2))
             (stop #~(make-kill-destructor)))))
     ((dies)                            ;comes up, then dies again and again
      (list (shepherd-service
             (provision '(broken)) (requirement '(user-processes))
             (start #~(make-forkexec-constructor (list #$(broken))))
             (stop #~(make-kill-destructor)))))
     (else '()))))

(define* (sample-system #:key (port 8791) (greeting "hello") (mode 'works))
  "Return an operating system with a service that serves GREETING over HTTP on
PORT, one that keeps state in /srv/state, a one-shot one, and, depending on
MODE, one that fails at start or dies."
  (operating-system
    (host-name "sample")
    (timezone "Etc/UTC")
    (locale "en_US.utf8")
    (bootloader (bootloader-configuration
                 (bootloader grub-bootloader) (targets '("/dev/null"))))
    (file-systems (cons (file-system
                          (device "none") (mount-point "/") (type "tmpfs"))
                        %base-file-systems))
    (packages '())
    (services
     (list (simple-service 'sample shepherd-root-service-type
                           (services port greeting mode))))))
