;; One entry that throws when it is lowered, beside one that does not.
(use-modules (guix packages) (gnu packages base))

(packages->manifest
 (list hello
       (package
         (inherit hello)
         (name "throws")
         (arguments (car '())))))
