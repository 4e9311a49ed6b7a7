package libvirt_test

import (
	"testing"

	"go.uber.org/goleak"

	"widecloud/internal/hyper/hypertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	a, b := newHost(t, "tokyo-1"), newHost(t, "osaka-1")
	hypertest.Run(t, func(t *testing.T) hypertest.Env { return hypertest.Env{A: a.env(), B: b.env()} })
}
