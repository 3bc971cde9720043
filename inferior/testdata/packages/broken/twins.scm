;; Packages of the same name.
(define-module (broken twins)
  #:use-module (broken loads)
  #:use-module (guix packages))

(define-public twin-1
  (package (inherit fine) (name "twin") (version "1.9")))

(define-public twin-2
  (package (inherit fine) (name "twin") (version "1.10")))

(define-public twin-2-hidden
  (package (inherit twin-2) (synopsis "Another") (properties '((hidden? . #t) (x . 1)))))
