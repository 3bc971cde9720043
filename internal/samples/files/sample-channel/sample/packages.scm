;;; One package of each kind that a continuous integration has to cope with.

(define-module (sample packages)
  #:use-module (guix build-system trivial)
  #:use-module (guix gexp)
  #:use-module ((guix licenses) #:prefix license:)
  #:use-module (guix packages)
  #:use-module (sample salt))

(define* (sample name synopsis builder #:key (outputs '("out")))
  "Return the package NAME that is built by BUILDER, a gexp."
  (package
    (name name)
    (version "1.0")
    (source #f)
    (build-system trivial-build-system)
    (outputs outputs)
    (arguments (list #:builder #~(begin
                                   (define salt #$%salt) ;another run, another build
                                   (setvbuf (current-output-port) 'line)
                                   #$builder)))
    (home-page "https://example.org/sample-channel")
    (synopsis synopsis)
    (description synopsis)
    (license license:gpl3+)))

(define write-file
  ;; Code that defines (write-file OUTPUT NAME TEXT).
  #~(define (write-file output name text)
      (unless (file-exists? output)
        (mkdir output))
      (call-with-output-file (string-append output "/" name)
        (lambda (port)
          (display text port)))))

(define-public sample-hello
  (sample "sample-hello" "Package that builds"
          #~(begin
              #$write-file
              (format #t "sample-hello: saying hello~%")
              (write-file #$output "hello" (string-append "hello, world " salt "\n")))))

(define-public sample-broken
  (sample "sample-broken" "Package that fails in its build"
          #~(begin
              (format #t "sample-broken: compiling answer.c~%")
              (format #t "sample-broken: answer.c:42: error: the answer is 41, expected 42~%")
              (exit 1))))

(define-public sample-needs-broken
  (sample "sample-needs-broken" "Package that depends on the one that fails"
          #~(begin
              #$write-file
              (write-file #$output "broken" #$sample-broken))))

(define-public sample-unlowerable
  (package
    (inherit (sample "sample-unlowerable"
                     "Package that has no derivation, because computing it throws"
                     #~(mkdir #$output)))
    (source (local-file "answer.tar.gz")))) ;nobody committed it

(define-public sample-talker
  (sample "sample-talker" "Package that prints for a while"
          #~(begin
              #$write-file
              (let loop ((n 1))
                (when (<= n 200)
                  (format #t "sample-talker: line ~a of 200~%" n)
                  (usleep 5000)
                  (loop (+ n 1))))
              (write-file #$output "talker" "done\n"))))

(define-public sample-slow
  (sample "sample-slow" "Slow package that two others depend on"
          #~(begin
              #$write-file
              (format #t "sample-slow: taking its time~%")
              (sleep 8)
              (write-file #$output "slow" salt))))

(define-public sample-slow-reader
  (sample "sample-slow-reader" "First user of the slow package"
          #~(begin
              #$write-file
              (write-file #$output "reader" #$sample-slow))))

(define-public sample-slow-writer
  (sample "sample-slow-writer" "Second user of the slow package"
          #~(begin
              #$write-file
              (write-file #$output "writer" #$sample-slow))))

(define-public sample-two-outputs
  (sample "sample-two-outputs" "Package with two outputs"
          #~(begin
              #$write-file
              (write-file #$output "program" salt)
              (write-file #$output:doc "manual" "read me\n"))
          #:outputs '("out" "doc")))
