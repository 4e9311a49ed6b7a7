package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"widecloud/internal/store"
)

// childDir is set, to the store's directory, in the environment of the child that writes until it is killed; childKind says what.
const (
	childDir  = "WIDECLOUD_STORETEST_DIR"
	childKind = "WIDECLOUD_STORETEST_KIND"
	childAny  = "any"  // more and more rows
	childFull = "full" // urgent, on a full disk
	// several writers at the same time
	childTogether = "together"
)

// Main is the driver's TestMain: it runs the tests, or, in the child of the durability test, the writer.
func Main(m interface{ Run() int }, open Driver) int {
	dir := os.Getenv(childDir)
	if dir == "" {
		return m.Run()
	}
	write := map[string]func(string, Driver) error{
		childAny: writeUntilKilled, childFull: writeFullUntilKilled, childTogether: writeTogetherUntilKilled,
	}[os.Getenv(childKind)]
	if err := write(dir, open); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// writeUntilKilled prints the revision N of every acknowledged write of n/N and of newest.
func writeUntilKilled(dir string, open Driver) error {
	s, err := open(dir, Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		var n int
		rev, err := s.Update(context.Background(), func(tx store.Tx) error {
			n = int(tx.Revision()) + 1
			if err := tx.Put(fmt.Sprintf("n/%06d", n), []byte(strings.Repeat("x", n%5000))); err != nil {
				return err
			}
			return tx.Put("newest", fmt.Append(nil, n))
		})
		if err != nil {
			return err
		}
		if _, err := fmt.Println(rev); err != nil {
			return err
		}
	}
}

// writeFullUntilKilled prints the revision of every acknowledged write. Each is first tried as an ordinary one.
func writeFullUntilKilled(dir string, open Driver) error {
	s, err := open(dir, Options{Reserve: reserve})
	if err != nil {
		return err
	}
	defer s.Close()
	f := func(tx store.Tx) error {
		n := tx.Revision() + 1
		return tx.Put(fullKey(n), make([]byte, fullSize(n)))
	}
	for {
		rev, err := s.Update(context.Background(), f)
		if errors.Is(err, store.ErrFull) {
			rev, err = s.Update(store.Urgent(context.Background()), f)
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Println(rev); err != nil {
			return err
		}
	}
}

// killWriter runs a child that writes into dir, kills it after so many acknowledged writes, and returns the revision of the last.
func killWriter(t *testing.T, dir, kind string, after int) (acknowledged int64) {
	t.Helper()
	child := startChild(t, dir, kind)
	lines := bufio.NewScanner(child.out)
	for i := 0; lines.Scan(); i++ {
		var rev int64
		if _, err := fmt.Sscan(lines.Text(), &rev); err != nil {
			t.Errorf("child printed %q", lines.Text())
		}
		if rev <= acknowledged {
			t.Errorf("revision %d came after %d", rev, acknowledged)
		}
		acknowledged = rev
		if i == after {
			must(t, child.Process.Kill()) // and read on: what is in the pipe was acknowledged too
		}
	}
	child.killed(t)
	return acknowledged
}

// child is a process of Main that writes until it is killed.
type child struct {
	*exec.Cmd
	out io.Reader // what it prints
}

func startChild(t *testing.T, dir, kind string) child {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childKind+"="+kind)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	return child{cmd, out}
}

// killed waits for the child's end, which must be a kill.
func (c child) killed(t *testing.T) {
	t.Helper()
	if err := c.Wait(); c.ProcessState == nil || c.ProcessState.Exited() {
		t.Fatalf("the child ended by itself: %v", err)
	}
}

// testKilledWriter kills a writing process at random moments: what it had acknowledged is there (law 3).
func testKilledWriter(t *testing.T, open Driver) {
	dir := t.TempDir()
	var acknowledged int64
	for round := range 6 {
		after := 1 + rand.IntN(40)
		t.Logf("round %d: kill after %d acknowledged writes", round, after)
		acknowledged = max(acknowledged, killWriter(t, dir, childAny, after))
		s, err := open(dir, Options{})
		must(t, err)
		must(t, s.View(t.Context(), func(tx store.Tx) error {
			if tx.Revision() < acknowledged {
				t.Errorf("revision is %d after the kill, %d was acknowledged", tx.Revision(), acknowledged)
			}
			kvs, err := tx.List("n/")
			must(t, err)
			if int64(len(kvs)) != tx.Revision() {
				t.Errorf("%d keys at revision %d", len(kvs), tx.Revision())
			}
			for i, kv := range kvs {
				n := i + 1
				if kv.Key != fmt.Sprintf("n/%06d", n) || len(kv.Value) != n%5000 || kv.Modified != int64(n) {
					t.Fatalf("key %d is %s with %d bytes of revision %d", n, kv.Key, len(kv.Value), kv.Modified)
				}
			}
			newest, err := tx.Get("newest")
			must(t, err)
			same(t, "newest", fmt.Sprint(len(kvs)), string(newest.Value))
			return nil
		}))
		must(t, s.Close())
	}
}
