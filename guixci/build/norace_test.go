//go:build !race

package build

// many is about as many derivations as all of Guix needs.
const many = 100_000
