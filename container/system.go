package container

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/genenetwork/guixci/inferior/sexp"
)

// Closures tells what a store item needs, itself included, in any order.
type Closures interface {
	Closure(ctx context.Context, item string) ([]Item, error)
}

// An Item is a store item.
type Item struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // of its archive, in bytes
}

// IDs are the numbers of user accounts or groups by name.
type IDs map[string]int

// A System is what the closure of a run-container script tells of the operating
// system in it, without running it.
type System struct {
	Items    []Item
	Services []string // names of shepherd services, as their files have them; sorted
	// Users and Groups are numbered as activation numbers them: on a file system
	// that starts empty each time, as that of a container does.
	Users, Groups IDs
	// Fetches are the services that get code from elsewhere when they start.
	Fetches []Fetch
}

// ReadSystem reads the system in a script. What it says of services and accounts
// comes from the store items that (gnu services shepherd) and (gnu system shadow) make;
// where a Guix makes others they are empty.
func ReadSystem(ctx context.Context, closures Closures, script string) (*System, error) {
	items, err := closures.Closure(ctx, script)
	if err != nil {
		return nil, fmt.Errorf("read system of %s: %w", script, err)
	}
	s := &System{Items: items, Fetches: fetches(items)}
	for _, item := range items {
		if service, ok := serviceOf(item); ok {
			s.Services = append(s.Services, service)
		}
		if itemName(item.Path) == "activate-service.scm" {
			if err := s.readAccounts(item.Path); err != nil {
				return nil, fmt.Errorf("read system: %w", err)
			}
		}
	}
	slices.Sort(s.Services)
	return s, nil
}

// itemName returns the part of a store item's name after the hash.
func itemName(path string) string {
	_, name, _ := strings.Cut(filepath.Base(path), "-")
	return name
}

// readAccounts looks for (activate-users+groups USERS GROUPS) in a program.
func (s *System) readAccounts(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r := sexp.NewReader(f)
	r.File = file
	for {
		v, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		call, ok := findCall(v, "activate-users+groups")
		if !ok {
			continue
		}
		users, groups := accounts(call[0], 9), accounts(call[1], 3)
		s.Users, s.Groups = allocate(users), allocate(groups)
	}
}

// findCall returns the arguments of the first call of a procedure with two arguments.
func findCall(v sexp.Value, procedure sexp.Symbol) ([]sexp.Value, bool) {
	if args, ok := sexp.Tagged(v, procedure); ok && len(args) == 2 {
		return args, true
	}
	items, _ := sexp.Items(v)
	for _, item := range items {
		if args, ok := findCall(item, procedure); ok {
			return args, true
		}
	}
	return nil, false
}

// An account is a user or a group before it has a number.
type account struct {
	name   string
	id     int // -1 for none asked for
	system bool
}

// accounts reads (map … (list ACCOUNT …)), each like (quasiquote ("root" 0 …)) for
// users and (list "root" #f 0 …) for groups, whose last field, at index last, tells system accounts.
func accounts(v sexp.Value, last int) []account {
	var all []account
	outer, _ := sexp.Items(v)
	if len(outer) != 3 {
		return nil
	}
	list, _ := sexp.Tagged(outer[2], "list")
	for _, item := range list {
		fields, ok := sexp.Tagged(item, "list")
		if quoted, isQuoted := sexp.Tagged(item, "quasiquote"); isQuoted && len(quoted) == 1 {
			fields, ok = sexp.Items(quoted[0])
		}
		if !ok || len(fields) <= last {
			continue
		}
		a := account{id: -1, system: sexp.True(fields[last])}
		a.name, _ = sexp.Text(fields[0])
		for _, f := range fields[1:3] { // a user's number is the second field, a group's the third
			if id, ok := f.(sexp.Int); ok && a.id < 0 {
				a.id = int(id)
			}
		}
		all = append(all, a)
	}
	return all
}

const (
	firstID, lastID             = 1000, 60000
	firstSystemID, lastSystemID = 100, 999
)

// allocate numbers accounts as (gnu build accounts) does: in order, system
// accounts downwards, others upwards, each going on from the number asked
// for last; no number that anybody asked for is given away.
func allocate(accounts []account) IDs {
	taken := make(map[int]bool)
	for _, a := range accounts {
		taken[a.id] = true
	}
	ids := make(IDs)
	next, nextSystem := firstID, lastSystemID
	for _, a := range accounts {
		switch {
		case a.id > firstSystemID && a.id <= lastSystemID:
			nextSystem = a.id - 1
		case a.id >= firstID && a.id < lastID:
			next = a.id + 1
		case a.id >= 0:
		case a.system:
			for taken[nextSystem] {
				if nextSystem--; nextSystem < firstSystemID {
					nextSystem = lastSystemID
				}
			}
			a.id = nextSystem
		default:
			for ; taken[next]; next++ {
			}
			a.id = next
		}
		taken[a.id] = true
		ids[a.name] = a.id
	}
	return ids
}

// accountsOf returns the numbers of users and groups in a running container.
func accountsOf(p Process) (users, groups IDs, err error) {
	if users, err = readIDs(p, "/etc/passwd"); err != nil {
		return nil, nil, err
	}
	groups, err = readIDs(p, "/etc/group")
	return users, groups, err
}

// readIDs reads NAME:PASSWORD:ID:… lines, passwd(5) and group(5).
func readIDs(p Process, name string) (IDs, error) {
	fd, err := openInRoot(p, name, uint64(os.O_RDONLY))
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	ids := make(IDs)
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 3 {
			continue
		}
		if id, err := strconv.Atoi(fields[2]); err == nil {
			ids[fields[0]] = id
		}
	}
	return ids, lines.Err()
}
