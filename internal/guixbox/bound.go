package guixbox

import (
	"context"
	"os/exec"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// runBound runs a child, in a process group of its own, that ends with ctx and with this process:
// it is killed, group and all, when ctx ends; itself when this process dies in whatever way.
// prepare is called before, on the thread that the child is forked from and that
// nothing else will run on; nil does nothing.
func runBound(ctx context.Context, cmd *exec.Cmd, prepare func()) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.WaitDelay = 10 * time.Second
	done := make(chan error, 1)
	go func() {
		// The signal comes when the thread ends that forked the child: stay on it until
		// the child has ended, and then let it end, not to be used again.
		runtime.LockOSThread()
		if prepare != nil {
			prepare()
		}
		if err := cmd.Start(); err != nil {
			done <- err
			return
		}
		stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		err := cmd.Wait()
		stop()
		done <- err
	}()
	return <-done
}

// contained returns a command in its own mount and process namespaces: when it ends, or is
// killed, or [runBound] kills it, its mounts and its children are gone too.
func contained(name string, args ...string) *exec.Cmd {
	return exec.Command("unshare", append([]string{"--mount", "--propagation", "private",
		"--pid", "--fork", "--kill-child", "--mount-proc", name}, args...)...)
}

// withoutSync makes fsync and its like do nothing in what is forked from this thread from
// now on. dpkg calls it thousands of times, and a root that is not complete when the machine
// goes down is made again anyway. Where the kernel cannot do that, nothing changes.
func withoutSync() {
	const load, equal, end = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K,
		unix.BPF_RET | unix.BPF_K
	arch, ok := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !ok {
		return
	}
	calls := []uint32{unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC, unix.SYS_SYNCFS, unix.SYS_SYNC_FILE_RANGE, unix.SYS_MSYNC}
	// struct seccomp_data begins with the number of the call and the architecture.
	filter := []unix.SockFilter{
		{Code: load, K: 4},
		{Code: equal, K: arch, Jf: uint8(len(calls) + 1)},
		{Code: load, K: 0},
	}
	for i, nr := range calls {
		filter = append(filter, unix.SockFilter{Code: equal, K: nr, Jt: uint8(len(calls) - i)})
	}
	filter = append(filter,
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ERRNO}) // with number 0: success
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// syncFileSystem writes to disk what withoutSync has not.
func syncFileSystem(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}
