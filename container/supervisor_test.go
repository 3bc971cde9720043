package container_test

import (
	"os"
	"testing"

	"github.com/genenetwork/guixci/container"
	"github.com/genenetwork/guixci/container/containertest"
)

func TestSupervisor(t *testing.T) {
	containertest.Suite{Runner: new(container.Supervisor), Again: new(container.Supervisor), Limits: os.Geteuid() == 0}.Run(t)
}
