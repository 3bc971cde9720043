(use-modules (guix packages) (guix gexp) (gnu packages base) (gnu packages guile))

(concatenate-manifests
 (list (packages->manifest (list hello guile-3.0 hello (list glibc "debug")))
       (manifest (list (manifest-entry
                         (name "note")
                         (version "1")
                         (item (computed-file "note" #~(mkdir #$output))))
                       (manifest-entry
                         (name "patient")
                         (version "2")
                         (item (package
                                 (inherit hello)
                                 (name "patient")
                                 (properties '((timeout . 60)
                                               (max-silent-time . 30))))))))))
