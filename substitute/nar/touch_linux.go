package nar

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// touchLink sets the modification time of the symbolic link name itself,
// for which package os has no function.
func touchLink(in *os.Root, name string) error {
	dir, err := in.Open(".")
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Sec: modified.Unix()}, {Sec: modified.Unix()}}
	err = unix.UtimesNanoAt(int(dir.Fd()), name, times, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		err = &os.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return errors.Join(err, dir.Close())
}
