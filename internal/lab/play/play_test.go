package play_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"widecloud/internal/lab/machine"
)

// scope keeps this run apart from whatever else happens on the machine.
var scope = machine.Scope{Name: fmt.Sprintf("lp%d", os.Getpid())}

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
