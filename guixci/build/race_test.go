//go:build race

package build

// many is fewer where the race detector slows everything down.
const many = 10_000
