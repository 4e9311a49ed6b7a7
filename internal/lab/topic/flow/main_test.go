package flow_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"widecloud/internal/lab/machine"
)

// scope keeps this run apart from whatever else happens on the machine.
var scope = machine.Scope{Name: fmt.Sprintf("lf%d", os.Getpid())}

func TestMain(m *testing.M) { os.Exit(machine.CheckMain(m, scope)) }

// open makes a lab that goes with the test.
func open(t *testing.T) *machine.Lab {
	t.Helper()
	l, err := machine.Open(machine.Options{Name: scope.Name, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	must(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func node(t *testing.T, l *machine.Lab, o machine.NodeOptions) *machine.Node {
	t.Helper()
	n, err := l.AddNode(o)
	must(t, err)
	return n
}

func prefix(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }

// eventually polls until f says true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
