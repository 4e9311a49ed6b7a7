package wire_test

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"widecloud/internal/wire"
)

func TestMemoryFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := wire.NewMemory()
		a, b := m.Node("a"), m.Node("b")
		if _, err := a.Dial(t.Context(), "b:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		if _, err := a.Listen(t.Context(), "b:1"); err == nil {
			t.Error("a listens as b")
		}
		ln, err := b.Listen(t.Context(), ":1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Listen(t.Context(), "b:1"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("port taken twice: %v", err)
		}

		// A dial waits for the link, but not longer than its context.
		m.Cut("b", "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Dial(ctx, "b:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial over a cut link: %v", err)
		}
		time.AfterFunc(time.Second, func() { m.Heal("a", "b") })
		x, err := a.Dial(t.Context(), "b:1")
		if err != nil {
			t.Fatal(err)
		}
		y, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}

		// Delay is kept to the millisecond, order too, and what a cut holds up comes after it.
		m.SetDelay("a", "b", 6*time.Millisecond)
		began := time.Now()
		io.WriteString(x, "one")
		m.SetDelay("a", "b", time.Millisecond)
		io.WriteString(x, "two")
		got := make([]byte, 6)
		if _, err := io.ReadFull(y, got); err != nil || string(got) != "onetwo" || time.Since(began) != 6*time.Millisecond {
			t.Errorf("%q, %v, after %v", got, err, time.Since(began))
		}
		m.Cut("a", "b")
		io.WriteString(x, "six")
		time.AfterFunc(time.Minute, func() { m.Heal("a", "b") })
		began = time.Now()
		if _, err := io.ReadFull(y, got[:3]); err != nil || time.Since(began) != time.Minute {
			t.Errorf("%v, after %v", err, time.Since(began))
		}

		// A node's death is seen by the other end, unless the link is cut: then when it heals.
		m.Cut("a", "b")
		m.Kill("b")
		y.Close()
		time.AfterFunc(time.Minute, func() { m.Heal("a", "b") })
		began = time.Now()
		if _, err := x.Read(got); !errors.Is(err, syscall.ECONNRESET) || time.Since(began) != time.Minute {
			t.Errorf("%v, after %v", err, time.Since(began))
		}
		if _, err := ln.Accept(); err == nil {
			t.Error("a dead node accepts")
		}
		if ln, err = b.Listen(t.Context(), ":1"); err != nil {
			t.Errorf("listen again: %v", err)
		}
		ln.Close()
		x.Close()
	})
}
