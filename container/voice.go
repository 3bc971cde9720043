package container

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// In the log, a line of a service is
//
//	shepherd[1]: COMMAND[PID] TEXT
//
// maybe after a date; the first lines may be there before the process has its number, as
//
//	shepherd[1]: [COMMAND] TEXT
//
// Whose process that is can be told by shepherd's own lines, such as
//
//	shepherd[1]: Service NAME running with value #<<process> id: PID command: ("FILE" …)>.
//
// but only later: a service that is still starting may have said a lot. And some become
// another process than the one that shepherd has started; their lines are recognised by
// those that shepherd remembers as theirs.
var (
	ownLine  = regexp.MustCompile(`^(?:.*? )??shepherd\[1\]: (.*)$`)
	theirs   = regexp.MustCompile(`^([^ ]*)\[([0-9]+)\] (.*)$`)
	early    = regexp.MustCompile(`^(\[[^ ]+\]) (.*)$`)
	isNow    = regexp.MustCompile(`^Service ([^ ]+) running with value (?:#<<process> id: ([0-9]+) command: \("([^"]*)"|([0-9]+)\.$)`)
	beginsAt = regexp.MustCompile(`^GNU Shepherd `)
)

// A voice is what one service says, heard out of the lines of a log that are written to it.
type voice struct {
	w       io.Writer
	name    string
	partial []byte
	owner   map[string]string // services by process
	held    map[string]*words // of processes that are not known, or, as [COMMAND], have no number yet
	seen    map[string]bool   // processes whose lines have had their number
	silent  map[string]string // those of [COMMAND] that shepherd has told of, and have not
	heard   bool
}

// words are what a process has said: the last of it.
type words struct {
	lines []string
	lost  int
	tried int // how often it was not recognised
}

const (
	mostHeld  = 5000 // how many lines are kept of a process that is not known
	mostTried = 20   // how often it is tried to recognise it
)

func newVoice(w io.Writer, name string, services []Service) *voice {
	v := &voice{w: w, name: name, owner: make(map[string]string), held: make(map[string]*words),
		seen: make(map[string]bool), silent: make(map[string]string)}
	for _, s := range services {
		if s.PID != 0 {
			v.owner[fmt.Sprint(s.PID)] = s.Name()
		}
	}
	return v
}

// Write takes the next part of the log.
func (v *voice) Write(p []byte) (int, error) {
	v.partial = append(v.partial, p...)
	for {
		line, rest, whole := bytes.Cut(v.partial, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		text := string(line)
		v.partial = append(v.partial[:0], rest...)
		if err := v.line(text); err != nil {
			return 0, err
		}
	}
}

func (v *voice) line(text string) error {
	own := ownLine.FindStringSubmatch(text)
	if own == nil {
		if strings.HasPrefix(text, "guixci: ") {
			return v.say(text) // something is missing, maybe of this service
		}
		return nil
	}
	if now := isNow.FindStringSubmatch(own[1]); now != nil {
		return v.told(now[1], now[2]+now[4], "["+path.Base(now[3])+"]")
	}
	if said := theirs.FindStringSubmatch(own[1]); said != nil {
		return v.said(said[2], "["+said[1]+"]", said[3])
	}
	if said := early.FindStringSubmatch(own[1]); said != nil {
		if pid := v.silent[said[1]]; pid != "" {
			return v.by(pid, said[2])
		}
		v.hold(said[1], said[2])
	}
	return nil
}

// told takes what shepherd says of a process.
func (v *voice) told(service, pid, command string) error {
	v.seen[pid] = v.seen[pid] && v.held[pid] != nil // else it is another one, which has the number now
	if !v.seen[pid] {
		v.silent[command] = pid
		v.number(pid, command)
	}
	return v.is(pid, service)
}

// said takes a line of a process.
func (v *voice) said(pid, command, text string) error {
	if !v.seen[pid] {
		v.seen[pid] = true
		if v.silent[command] == pid {
			delete(v.silent, command)
		}
		v.number(pid, command)
		if owner, known := v.owner[pid]; known {
			if err := v.is(pid, owner); err != nil {
				return err
			}
		}
	}
	return v.by(pid, text)
}

// number makes what was said without a number what the process has said.
func (v *voice) number(pid, command string) {
	if h := v.held[command]; h != nil && v.held[pid] == nil {
		v.held[pid] = h
		delete(v.held, command)
	}
}

// by takes what a process has said.
func (v *voice) by(pid, text string) error {
	switch owner, known := v.owner[pid]; {
	case owner == v.name:
		return v.say(text)
	case !known:
		v.hold(pid, text)
	}
	return nil
}

func (v *voice) say(text string) error {
	v.heard = true
	_, err := fmt.Fprintln(v.w, text)
	return err
}

func (v *voice) hold(by, text string) {
	h := v.held[by]
	if h == nil {
		h = new(words)
		v.held[by] = h
	}
	h.lines = append(h.lines, text)
	if len(h.lines) > mostHeld {
		h.lines = slices.Delete(h.lines, 0, mostHeld/2)
		h.lost += mostHeld / 2
	}
}

// is tells whose a process is: what it has said is let go.
func (v *voice) is(by, service string) error {
	if !strings.HasPrefix(by, "[") { // else the next one may be somebody else's
		v.owner[by] = service
	}
	h := v.held[by]
	delete(v.held, by)
	if h == nil || service != v.name {
		return nil
	}
	if h.lost > 0 {
		if err := v.say(fmt.Sprintf("guixci: %d lines are missing here", h.lost)); err != nil {
			return err
		}
	}
	for _, line := range h.lines {
		if err := v.say(line); err != nil {
			return err
		}
	}
	return nil
}

// recognise finds out whose processes those are that are not known: of the only service that is
// remembered to have said what they have.
func (v *voice) recognise(services []Service) error {
	for by, h := range v.held {
		var owners []string
		for _, s := range services {
			if slices.ContainsFunc(s.Messages, func(m Message) bool { return slices.Contains(h.lines, m.Text) }) {
				owners = append(owners, s.Name())
			}
		}
		h.tried++
		switch {
		case len(owners) == 1:
			if err := v.is(by, owners[0]); err != nil {
				return err
			}
		case h.tried == mostTried: // shepherd has forgotten it: it has ended
			if err := v.is(by, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyVoice writes what the log has of a service since the container began.
func (in *Instance) copyVoice(ctx context.Context, w io.Writer, services []Service, service Service, follow bool) error {
	t, err := in.openTail()
	if err != nil {
		return err
	}
	defer t.close()
	if t.read, err = lastBeginning(io.NewSectionReader(t.log, 0, 1<<62)); err != nil {
		return err
	}
	v := newVoice(w, service.Name(), services)
	err = in.repeat(ctx, follow, func() (bool, error) {
		finished, err := t.copy(v)
		if err != nil || len(v.held) == 0 {
			return finished, err
		}
		services, err := in.services(ctx)
		if err != nil && !in.Alive() {
			return finished, nil
		}
		return finished, errors.Join(err, v.recognise(services))
	})
	if err != nil || follow || v.heard {
		return err
	}
	for _, line := range lastWords(services, service) {
		fmt.Fprintln(w, line)
	}
	return nil
}

// lastBeginning returns where, in a log, the last shepherd began.
func lastBeginning(r io.Reader) (beginning int64, err error) {
	lines, at := bufio.NewReader(r), int64(0)
	for {
		line, err := lines.ReadString('\n')
		if own := ownLine.FindStringSubmatch(strings.TrimSuffix(line, "\n")); own != nil && beginsAt.MatchString(own[1]) {
			beginning = at
		}
		at += int64(len(line))
		if errors.Is(err, io.EOF) {
			return beginning, nil
		}
		if err != nil {
			return 0, err
		}
	}
}
