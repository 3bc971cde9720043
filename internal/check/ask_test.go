package check

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/genenetwork/guixci/guixci"
	"github.com/genenetwork/guixci/guixci/record"
)

// A specification that has never come to a verdict is told in the form that was asked for.
func TestStatusWithoutVerdict(t *testing.T) {
	dir := t.TempDir()
	r, err := record.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(guixci.Specification{Name: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.PutSpecification(record.Specification{Name: "mine", Data: text}); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Status(t.Context(), dir, "", false, &out); err != nil || !strings.HasPrefix(out.String(), "mine: no evaluation") {
		t.Errorf("%q, %v", &out, err)
	}
	out.Reset()
	if err := Status(t.Context(), dir, "", true, &out); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%q: %v", &out, err)
	}
	if verdict, ok := got["verdict"]; got["specification"] != "mine" || !ok || verdict != nil {
		t.Errorf("printed %v", got)
	}
}
