package container

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// In the log, a line of a service is
//
//	shepherd[1]: COMMAND[PID] TEXT
//
// maybe after a date. Whose process that is can be told by shepherd's own lines, such as
//
//	shepherd[1]: Service NAME running with value #<<process> id: PID command: …>.
//
// but only later: a service that is still starting may have said a lot. And some become
// another process than the one that shepherd has started; their lines are recognised by
// those that shepherd remembers as theirs.
var (
	ownLine  = regexp.MustCompile(`^(?:.*? )??shepherd\[1\]: (.*)$`)
	theirs   = regexp.MustCompile(`^[^ ]*\[([0-9]+)\] (.*)$`)
	isNow    = regexp.MustCompile(`^Service ([^ ]+) running with value (?:#<<process> id: )?([0-9]+)[ .]`)
	beginsAt = regexp.MustCompile(`^GNU Shepherd `)
)

// A voice is what one service says, heard out of the lines of a log that are written to it.
type voice struct {
	w       io.Writer
	name    string
	partial []byte
	owner   map[string]string // services by process
	held    map[string]*words // of processes that are not known
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
	v := &voice{w: w, name: name, owner: make(map[string]string), held: make(map[string]*words)}
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
		return v.is(now[2], now[1])
	}
	said := theirs.FindStringSubmatch(own[1])
	if said == nil {
		return nil
	}
	owner, known := v.owner[said[1]]
	if owner == v.name {
		return v.say(said[2])
	}
	if !known {
		v.hold(said[1], said[2])
	}
	return nil
}

func (v *voice) say(text string) error {
	v.heard = true
	_, err := fmt.Fprintln(v.w, text)
	return err
}

func (v *voice) hold(pid, text string) {
	h := v.held[pid]
	if h == nil {
		h = new(words)
		v.held[pid] = h
	}
	h.lines = append(h.lines, text)
	if len(h.lines) > mostHeld {
		h.lines = slices.Delete(h.lines, 0, mostHeld/2)
		h.lost += mostHeld / 2
	}
}

// is tells whose a process is: what it has said is let go.
func (v *voice) is(pid, service string) error {
	v.owner[pid] = service
	h := v.held[pid]
	delete(v.held, pid)
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
	for pid, h := range v.held {
		var owners []string
		for _, s := range services {
			if slices.ContainsFunc(s.Messages, func(m Message) bool { return slices.Contains(h.lines, m.Text) }) {
				owners = append(owners, s.Name())
			}
		}
		h.tried++
		switch {
		case len(owners) == 1:
			if err := v.is(pid, owners[0]); err != nil {
				return err
			}
		case h.tried == mostTried: // shepherd has forgotten it: it has ended
			delete(v.held, pid)
			v.owner[pid] = ""
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
	err = in.repeat(ctx, follow, func() error {
		if err := t.copy(v); err != nil {
			return err
		}
		if len(v.held) == 0 {
			return nil
		}
		services, err := in.Shepherd().Services(ctx)
		if err != nil && !in.Alive() {
			return nil
		}
		return errors.Join(err, v.recognise(services))
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
