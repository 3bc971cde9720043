package guixci

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		type passed struct {
			after time.Duration
			what  string
		}
		var got []passed
		var fails error
		b := &batch[byte]{most: 3, longest: time.Second, pass: func(all []byte) error {
			got = append(got, passed{time.Since(begin), string(all)})
			return fails
		}}
		add := func(text string) error {
			for _, c := range []byte(text) {
				if err := b.add(c); err != nil {
					return err
				}
			}
			return nil
		}
		add("abcdef") // a at once, bcd when there are three; ef wait, however long nothing comes
		time.Sleep(time.Minute)
		add("ghi") // g at once; hi wait until the end
		if err := b.flush(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		want := []passed{{0, "a"}, {0, "bcd"}, {time.Second, "ef"}, {time.Minute, "g"}, {time.Minute, "hi"}}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(passed{})); diff != "" {
			t.Errorf("passed on (-want +got):\n%s", diff)
		}

		fails = errors.New("no disk")
		if err := add("k"); err != fails {
			t.Errorf("error %v", err)
		}
		if err := errors.Join(add("l"), b.flush()); err == nil || len(got) != len(want)+1 {
			t.Errorf("after an error: %v, passed %v", err, got)
		}
	})
}
