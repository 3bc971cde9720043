(specifications->manifest '("hello" "no-such-package"))
