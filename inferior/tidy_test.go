package inferior

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// A control group is nobody's if the process it is named after is gone.
func TestAbandoned(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		fmt.Sprintf("guixci-inferior-%d-1", gone.Process.Pid): true,
		fmt.Sprintf("guixci-inferior-%d-1", os.Getpid()):      false,
		fmt.Sprintf("guixci-web-%d-1", gone.Process.Pid):      false,
		"guixci-inferior-": false,
	} {
		if got := abandoned(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
