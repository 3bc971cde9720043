package inferior

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/genenetwork/guixci/inferior/sexp"
)

const sigKill = syscall.SIGKILL

// Options say which Guix a session runs, and how. The zero value runs the
// "guix" found in PATH.
type Options struct {
	// Program is the guix to run, for a profile its PROFILE/bin/guix: by that
	// name Guix finds the channels of the profile. Empty means guix in PATH.
	Program string
	// Args follow "guix repl -t machine", for example -L DIRECTORY.
	Args []string
	// Env is the child's environment as in [exec.Cmd]; nil means ours. The variables
	// that would make it run other code (GUIX_PACKAGE_PATH, GUILE_LOAD_PATH and their
	// kin) are always left out.
	Env []string
	// Dir is where it runs; empty means /.
	Dir string
	// Stderr, if not nil, gets what the child writes to standard error, and
	// to standard output beside the protocol, as it comes. The end of it
	// is in any case attached to errors.
	Stderr io.Writer
	// Memory is how many bytes the inferior and its children may occupy together
	// before they are killed; 0 means any number. Where control groups
	// can be made the kernel sees to it, else we look ten times a second.
	Memory int64
	// StopTimeout is the time each rung of the stop ladder is given;
	// 0 means 2 seconds.
	StopTimeout time.Duration
	// Logger gets debug messages about the life of the session; nil discards them.
	Logger *slog.Logger
}

// Start starts an inferior and greets it. ctx bounds the start only;
// a session lives until it is closed or breaks. What evaluated code prints, or
// lets child processes print, goes to standard error, and it reads no input: the protocol has
// descriptors of its own.
func Start(ctx context.Context, o Options) (_ *Session, err error) {
	path, err := program(o.Program)
	if err != nil {
		return nil, fmt.Errorf("start inferior: %w", err)
	}
	conn, stdin, stdout, err := newPipes()
	if err != nil {
		return nil, fmt.Errorf("start inferior: %w", err)
	}
	cmd := exec.Command(path, append([]string{"repl", "-t", "machine"}, o.Args...)...)
	if o.Program != "" {
		cmd.Args[0] = o.Program
	}
	cmd.Stdin, cmd.Stdout = stdin, stdout
	cmd.Env = environment(o.Env)
	if cmd.Dir = o.Dir; cmd.Dir == "" {
		cmd.Dir = "/"
	}
	child, err := startProcess(cmd, o.Stderr, o.Memory)
	stdin.Close()
	stdout.Close()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start inferior %q: %w", path, err)
	}
	s := o.session(conn, child)
	if err := s.greet(ctx, keepApart); err != nil {
		return nil, fmt.Errorf("start inferior %q: %w", path, err)
	}
	s.log.Debug("inferior session started", "guix", path, "pid", child.cmd.Process.Pid)
	return s, nil
}

// Attach greets the inferior at the other end of conn, such as one that listens
// ("guix repl -t machine --listen=unix:/FILE"), and owns conn from then on. Of
// o, only StopTimeout and Logger matter. What evaluated code prints goes to the
// standard error of that process.
func Attach(ctx context.Context, conn io.ReadWriteCloser, o Options) (*Session, error) {
	s := o.session(conn, nil)
	if err := s.greet(ctx, redirect); err != nil {
		return nil, fmt.Errorf("attach to inferior: %w", err)
	}
	return s, nil
}

func (o Options) session(conn io.ReadWriteCloser, child *process) *Session {
	s := &Session{
		turn:  make(chan struct{}, 1),
		in:    sexp.NewReader(conn),
		conn:  conn,
		child: child,
		log:   o.Logger,
		wait:  o.StopTimeout,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.wait == 0 {
		s.wait = 2 * time.Second
	}
	return s
}

// redirect makes everything that is printed from now on go to standard error.
// The protocol is not concerned: (guix repl) holds its port.
var redirect = mustParse(`(set-current-output-port (current-error-port))`)

// keepApart moves the protocol off descriptors 0 and 1, so that not even
// processes started by evaluated code can get between, then redirects.
// The order matters: a free descriptor 0 would be the next one to be handed out.
var keepApart = mustParse(`
(let ((input (current-input-port))
      (output (current-output-port))
      (apart (lambda (port)
               (let ((fd (dup->fdes port)))
                 (move->fdes port fd)
                 (fcntl port F_SETFD FD_CLOEXEC)))))
  (apart input)
  (let ((null (open-fdes "/dev/null" O_RDONLY)))
    (unless (= null 0)
      (dup2 null 0)
      (close-fdes null)))
  (apart output)
  (dup2 2 1)
  (set-current-input-port (open-input-string ""))
  (set-current-output-port (current-error-port)))`)

func mustParse(text string) sexp.Value {
	v, err := sexp.Parse(text)
	if err != nil {
		panic(err)
	}
	return v
}

// greet agrees on a version of the protocol and evaluates prepare.
// If it fails, the child is gone.
func (s *Session) greet(ctx context.Context, prepare sexp.Value) error {
	stop := context.AfterFunc(ctx, func() { s.abort(context.Cause(ctx)) })
	defer stop()
	hello, err := s.in.Next()
	if err != nil {
		return s.fail(err)
	}
	version, ok := sexp.Tagged(hello, "repl-version")
	if !ok || len(version) == 0 || version[0] != sexp.Value(sexp.Int(0)) {
		return s.fail(fmt.Errorf("%.80q is no greeting of guix repl -t machine", hello))
	}
	for i, n := range version[:min(3, len(version))] {
		number, _ := n.(sexp.Int)
		s.Version[i] = int(number)
	}
	if s.Version[1] >= 1 { // to a 0.0 server this would be an expression
		ours := sexp.L(sexp.L(), sexp.Symbol("repl-version"), sexp.Int(0), sexp.Int(1), sexp.Int(1))
		if err := s.send(ours); err != nil {
			return s.fail(err)
		}
	}
	if err := s.send(prepare); err != nil {
		return s.fail(err)
	}
	if _, err := s.receive(); err != nil {
		return s.fail(err)
	}
	return nil
}

// pipes is a child's standard input and output, seen from our side.
type pipes struct {
	r, w *os.File
}

// newPipes returns our ends as conn, and the two that the child gets.
func newPipes() (conn *pipes, stdin, stdout *os.File, err error) {
	stdin, w, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	r, stdout, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, errors.Join(err, stdin.Close(), w.Close())
	}
	return &pipes{r: r, w: w}, stdin, stdout, nil
}

func (p *pipes) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *pipes) Write(b []byte) (int, error) { return p.w.Write(b) }

// endInput is what makes a REPL end by itself.
func (p *pipes) endInput() { p.w.Close() }

func (p *pipes) Close() error {
	err := p.w.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	if e := p.r.Close(); e != nil && !errors.Is(e, os.ErrClosed) {
		err = errors.Join(err, e)
	}
	return err
}
