;; The system that the tests against a real container run.  Build it with
;;   guix system container --network -L container/testdata \
;;     -e '((@ (sample-system) sample-system) #:port 8791 #:greeting "one")'
(define-module (sample-system)
  #:use-module (gnu)
  #:use-module (gnu services)
  #:use-module (gnu services shepherd)
  #:use-module (gnu system shadow)
  #:use-module (guix gexp)
  #:export (sample-system))

;; What the environment says: the value of NAME in /etc/guixci/settings, or DEFAULT.
(define setting
  #~(begin
      (use-modules (ice-9 rdelim))
      (define (setting name default)
        (define file "/etc/guixci/settings")
        (define (value port)
          (let ((line (read-line port)))
            (cond ((eof-object? line) default)
                  ((string-prefix? (string-append name "=") line)
                   (string-trim-both (substring line (+ 1 (string-length name))) #\'))
                  (else (value port)))))
        (if (file-exists? file) (call-with-input-file file value) default))))

(define (web port greeting)
  "A server that answers GREETING on PORT, or on that of the setting PORT, at the
address of the setting LISTEN, or to this machine only.  With the setting FLAPS=N every Nth answer is a failure; /slow takes a second."
  (program-file "sample-web"
    #~(begin
        (use-modules (web server) (web request) (web response) (web uri))
        #$setting
        (define flaps (string->number (setting "FLAPS" "1000000")))
        (define (handle request body count)
          (when (string=? (uri-path (request-uri request)) "/slow") (sleep 1))
          (values (build-response #:code (if (zero? (modulo count flaps)) 503 200)
                                  #:headers '((content-type . (text/plain))))
                  #$greeting (+ count 1)))
        (run-server handle 'http
                    (list #:port (string->number (setting "PORT" (number->string #$port)))
                          #:addr (inet-pton AF_INET (setting "LISTEN" "127.0.0.1")))
                    1))))

(define (counter)
  "A program that keeps state in /srv/state: it notes its starts in the file starts, and
goes on counting in the file journal, a line for each number.  With the setting SHARED any
number of them may do so at the same time: they take turns."
  (program-file "sample-counter"
    #~(begin
        (use-modules (ice-9 textual-ports))
        #$setting
        (define journal "/srv/state/journal")
        (define (or-start-again thunk)  ;the disk may be full
          (catch 'system-error thunk
            (lambda _
              (sleep 2)
              (primitive-_exit 5))))
        (define (note file text)
          (or-start-again
           (lambda ()
             (let ((port (open-file file "a")))
               (display text port)
               (close-port port)))))
        (define (whole-lines)           ;half a line was never written
          (let* ((text (if (file-exists? journal)
                           (call-with-input-file journal get-string-all)
                           ""))
                 (end (string-rindex text #\newline)))
            (if end (substring text 0 (+ end 1)) "")))
        (define (last-number text)
          (let ((lines (reverse (string-split text #\newline))))
            (if (pair? (cdr lines)) (string->number (cadr lines)) 0)))
        (define (count number)
          (note journal (string-append (number->string number) "\n"))
          (usleep 50000)
          (count (+ number 1)))
        (define (end-of-journal)        ;some lines of it; what is there of the first may not be whole
          (call-with-input-file journal
            (lambda (port)
              (seek port (max 0 (- (stat:size (stat port)) 64)) SEEK_SET)
              (get-string-all port))))
        (define (take-turns)
          (or-start-again
           (lambda ()
             (let ((turn (open-file "/srv/state/turn" "a")))
               (flock turn LOCK_EX)
               (close-port (open-file journal "a"))
               (let* ((text (end-of-journal))
                      (end (+ 1 (or (string-rindex text #\newline) -1)))
                      (torn (- (string-length text) end)))
                 (truncate-file journal (- (stat:size (stat journal)) torn))
                 (note journal (string-append (number->string (+ 1 (last-number (substring text 0 end)))) "\n")))
               (close-port turn))))
          (usleep 50000)
          (take-turns))
        (note "/srv/state/starts" "started\n")
        (display "counter is counting\n")
        (force-output)
        (if (setting "SHARED" #f)
            (take-turns)
            (let ((text (whole-lines)))
              (note journal "")
              (truncate-file journal (string-length text))
              (count (+ (last-number text) 1)))))))

(define (fickle)
  "A program that behaves as the setting MODE says: works, fails at start, comes
up late, or dies later; TAKES says how many seconds that takes."
  (program-file "sample-fickle"
    #~(begin
        #$setting
        (define mode (string->symbol (setting "MODE" "works")))
        (define takes (string->number (setting "TAKES" "1")))
        (define (come-up)
          (call-with-output-file "/run/sample-fickle.pid"
            (lambda (port) (display (getpid) port))))
        (case mode
          ((fails) (display "told to fail\n") (force-output) (exit 3))
          ((late) (sleep takes) (come-up))
          ((dies) (come-up) (usleep (inexact->exact (round (* takes 1000000)))) (exit 4))
          (else (come-up)))
        (sleep 1000000))))

(define (broken)
  (program-file "sample-broken"
    #~(begin
        (display "cannot read /etc/sample.conf: no such file\n")
        (force-output)
        (exit 3))))

;; What must not be: the code that runs is what the repository has when the service starts.
(define (fetches)
  (program-file "sample-fetches"
    #~(begin
        (setenv "PATH" "/run/current-system/profile/bin:/usr/bin:/bin")
        (system* "git" "clone" "--quiet" "--depth=1" "file:///srv/state/upstream" "/run/sample/code")
        (execl "/bin/sh" "sh" "/run/sample/code/run"))))

(define (keeper)
  (program-file "sample-keeper"
    #~(begin
        (call-with-output-file "/srv/state/kept" (lambda (port) (display "private" port)))
        (chmod "/srv/state/kept" #o600)
        (sleep 1000000))))

(define (account name)
  (user-account (name name) (group "nogroup") (system? #t) (home-directory "/var/empty")))

(define (accounts mode)
  (case mode
    ((keeper) (list (account "keeper")))
    ((newcomer) (list (account "newcomer")))
    ((keeper-second) (list (account "newcomer") (account "keeper")))
    (else '())))

(define (data mode)
  (define (file version size)
    `(("sample-data"
       ,(computed-file (string-append "sample-data-" version)
          #~(call-with-output-file #$output
              (lambda (port) (display (make-string #$size #\a) port)))))))
  (case mode
    ((larger) (file "2.0" 40000))
    ((smaller) (file "1.0" 8000))
    (else '())))

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
     ((unbuildable)
      (list (shepherd-service
             (provision '(broken)) (requirement '(user-processes))
             (start #~(make-forkexec-constructor
                       (list #$(computed-file "sample-unbuildable"
                                 #~(begin
                                     (display "cannot compile\n" (current-error-port))
                                     (exit (not #$output)))))))
             (stop #~(make-kill-destructor)))))
     ((fetches)
      (list (shepherd-service
             (provision '(code)) (requirement '(user-processes setup))
             (start #~(make-forkexec-constructor (list #$(fetches))))
             (stop #~(make-kill-destructor)))))
     ((keeper keeper-second newcomer)   ;keeps a file that only an account of its own may read
      (list (shepherd-service
             (provision '(keeper)) (requirement '(user-processes))
             (start #~(make-forkexec-constructor (list #$(keeper))
                                                 #:user #$(if (eq? mode 'newcomer) "newcomer" "keeper")))
             (stop #~(make-kill-destructor)))))
     ((told)                            ;does what the setting MODE says
      (list (shepherd-service
             (provision '(fickle)) (requirement '(user-processes))
             (start #~(make-forkexec-constructor
                       (list #$(fickle))
                       #:pid-file "/run/sample-fickle.pid"
                       ;; Who is told to fail is not waited for long; the others have their time on a slow machine.
                       #:pid-file-timeout
                       (let ((settings "/etc/guixci/settings"))
                         (if (and (file-exists? settings)
                                  (string-contains (call-with-input-file settings
                                                     (@ (ice-9 textual-ports) get-string-all))
                                                   "MODE='fails'"))
                             6
                             60))))
             (stop #~(make-kill-destructor)))))
     ((crashes)                         ;what is forked for it crashes, the first time
      (list (shepherd-service
             (provision '(crasher)) (requirement '(user-processes))
             (start #~(lambda _
                        (define mark "/srv/state/crashed")
                        (or (file-exists? mark)
                            (begin
                              (close-port (open-file mark "w"))
                              (when (zero? (primitive-fork)) (kill (getpid) SIGABRT))
                              #f)))))))
     (else '()))))

(define* (sample-system #:key (port 8791) (greeting "hello") (mode 'works))
  "Return an operating system with a service that serves GREETING over HTTP on
PORT, one that keeps state in /srv/state, a one-shot one, and, depending on
MODE, one that fails at start or dies, or does what its environment says, or
for which something crashes, or that cannot be built."
  (operating-system
    (host-name "sample")
    (timezone (if (eq? mode 'elsewhere) "Europe/Berlin" "Etc/UTC"))
    (locale "en_US.utf8")
    (bootloader (bootloader-configuration
                 (bootloader grub-bootloader) (targets '("/dev/null"))))
    (file-systems (cons (file-system
                          (device "none") (mount-point "/") (type "tmpfs"))
                        %base-file-systems))
    (packages '())
    (services
     (list (simple-service 'sample shepherd-root-service-type
                           (services port greeting mode))
           (simple-service 'sample-data etc-service-type (data mode))
           (simple-service 'sample-accounts account-service-type
                           (accounts mode))))))
