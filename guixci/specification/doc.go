// Package specification reads and writes what is to be watched and built: the
// "specification" records of Cuirass, with some fields of our own.
//
//	specs, err := specification.Load(ctx, "specs.scm", nil) // programs are run by the guix in PATH
//	text, err := json.Marshal(specs)                        // and back, without loss
//
// A file is a Scheme expression for a list, as for "cuirass register -S" (node
// "Specifications" of Cuirass's manual, src/cuirass/specification.scm):
//
//	(list (specification
//	       (name "my-project")
//	       (build '(channels my-channel))
//	       (channels (cons (channel (name 'my-channel) (url "https://…")) %default-channels))
//	       (priority 2)
//	       (green '("my-program.x86_64-linux"))))   ;ours
//
// Files that are nothing but data are read here. Others, with map, define, file
// names computed and so on, are given to a Guix, in a child process with limits
// ([channel.Evaluator]). Both ways an error names file, line and column.
//
// The fields are Cuirass's name, build, channels, build-outputs, notifications,
// period, priority, systems, is-active? and properties, with its defaults, and ours:
//
//	green            names of jobs, or 'all: what must succeed for a lock to be green
//	timeout          seconds after which any build is stopped
//	max-silent-time  seconds without output after which any build is stopped
//	sessions         how many inferiors evaluate side by side
//	session-memory   bytes after which each of them is replaced
package specification
