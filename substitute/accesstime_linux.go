package substitute

import (
	"os"
	"syscall"
	"time"
)

// accessTime is when a file was last used.
func accessTime(file os.FileInfo) time.Time {
	if st, ok := file.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Atim.Unix())
	}
	return file.ModTime()
}
