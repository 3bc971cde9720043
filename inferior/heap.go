package inferior

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// heapSettings returns env, or ours if it is nil, with what tells the collector of
// Guile (libgc) how to use memory, where env does not say it: lowering makes
// garbage quickly, and collecting it is a third of the time in a heap that is as small as
// it can be. Sessions side by side do not help each other to collect: there
// is a processor for each at best.
func heapSettings(env []string, sessions int, budget int64) []string {
	if env == nil {
		env = os.Environ()
	}
	settings := [][2]string{{"GC_INITIAL_HEAP_SIZE", fmt.Sprint(min(budget/8, 256<<20))}}
	if budget >= 2<<30 {
		settings = append(settings, [2]string{"GC_FREE_SPACE_DIVISOR", "1"})
	}
	if sessions > 1 {
		settings = append(settings, [2]string{"GC_MARKERS", "1"})
	}
	env = slices.Clone(env)
	for _, s := range settings {
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, s[0]+"=") }) {
			env = append(env, s[0]+"="+s[1])
		}
	}
	return env
}
