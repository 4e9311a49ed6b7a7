package machine_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"widecloud/internal/lab/machine"
)

// scope keeps this run apart from whatever else happens on the machine.
var scope = machine.Scope{Name: fmt.Sprintf("ls%d", os.Getpid())}

func TestMain(m *testing.M) {
	if base := os.Getenv("LAB_VICTIM"); base != "" {
		victim(base)
	}
	os.Exit(machine.CheckMain(m, scope))
}

// open makes a lab that goes with the test.
func open(t *testing.T) *machine.Lab {
	t.Helper()
	l, err := machine.Open(machine.Options{Name: scope.Name, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func node(t *testing.T, l *machine.Lab, o machine.NodeOptions) *machine.Node {
	t.Helper()
	n, err := l.AddNode(o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// sh runs a shell command inside the node.
func sh(t *testing.T, n *machine.Node, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := n.Command(ctx, "/bin/sh", "-c", script).Output()
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return string(out)
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

// cpuTime is what this process has used so far.
func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
