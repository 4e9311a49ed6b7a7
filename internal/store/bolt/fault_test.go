package bolt_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
)

// faultPath is set, to a store's file, in the environment of the child that writes under a fault; with faultReader it reads at
// the same time.
const (
	faultPath   = "WIDECLOUD_BOLT_FAULT"
	faultReader = "WIDECLOUD_BOLT_READER"
)

const faultRows = 2

// writeUnderFault writes the rows 0 and 1 and prints of each what Update said, and what a View shows then.
func writeUnderFault(path string) error {
	runtime.LockOSThread() // strace counts the calls of each thread
	s, err := bolt.Open(bolt.Options{Path: path})
	if err != nil {
		return err
	}
	defer s.Close()
	ctx := context.Background()
	if os.Getenv(faultReader) != "" {
		var reader sync.WaitGroup
		defer reader.Wait()
		reader.Go(func() { printRows(ctx, s) })
	}
	for n := range faultRows {
		_, err := s.Update(ctx, func(tx store.Tx) error { return tx.Put(fmt.Sprint(n), make([]byte, 20000)) })
		seen := "absent"
		verr := s.View(ctx, func(tx store.Tx) error {
			_, err := tx.Get(fmt.Sprint(n))
			if err == nil {
				seen = "there"
			}
			return nil
		})
		if errors.Is(verr, store.ErrUnsure) {
			seen = "unsure"
		} else if verr != nil {
			return verr
		}
		fmt.Println(n, outcome(err), seen)
	}
	return nil
}

// printRows prints the rows that a View shows, as soon as it does.
func printRows(ctx context.Context, s store.Store) {
	for n := 0; n < faultRows; {
		err := s.View(ctx, func(tx store.Tx) error { _, err := tx.Get(fmt.Sprint(n)); return err })
		switch {
		case err == nil:
			fmt.Println(n, "by", "reader")
			n++
		case !errors.Is(err, store.ErrNotFound):
			return
		default:
			runtime.Gosched()
		}
	}
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "written"
	case errors.Is(err, store.ErrUnsure):
		return "unsure"
	case errors.Is(err, store.ErrFull):
		return "full"
	}
	return "failed"
}

// TestFailingDisk makes each write and each sync of some Updates fail or kill the process, by strace. What an Update says must
// be so, at once and after a restart; and when the disk works again, so does the store.
func TestFailingDisk(t *testing.T) {
	outcomes := map[string]int{}
	for _, fault := range []string{
		"pwrite64:error=EIO:when=%d", "pwrite64:error=ENOSPC:when=%d", "pwrite64:signal=KILL:when=%d",
		"fdatasync:error=EIO:when=%d", "fdatasync:error=EIO:when=%d+", "fdatasync:signal=KILL:when=%d",
	} {
		for n := 1; ; n++ {
			inject := fmt.Sprintf(fault, n)
			path := filepath.Join(t.TempDir(), "site.db")
			s, err := bolt.Open(bolt.Options{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, "old")
			s.Close()

			o := underFault(t, path, inject)
			for _, l := range o.lines {
				outcomes[l.said+", "+l.seen]++
				if l.said == "written" && l.seen != "there" || (l.said == "failed" || l.said == "full") && l.seen != "absent" {
					t.Errorf("%s: Update of row %s says %s, and it is %s", inject, l.row, l.said, l.seen)
				}
			}
			if !strings.HasSuffix(inject, "+") && len(o.lines) == faultRows && o.lines[faultRows-1].seen == "unsure" {
				t.Errorf("%s: the store is still unsure after the disk works again: %v", inject, o.lines)
			}
			if s, err = bolt.Open(bolt.Options{Path: path}); err != nil {
				t.Fatalf("%s: %v", inject, err)
			}
			for _, l := range append(o.lines, line{row: "old", seen: "there"}) {
				err := s.View(t.Context(), func(tx store.Tx) error { _, err := tx.Get(l.row); return err })
				if l.seen == "there" && err != nil || l.seen == "absent" && err == nil {
					t.Errorf("%s: row %s was %s, after a restart: %v", inject, l.row, l.seen, err)
				}
			}
			put(t, s, "new")
			s.Close()
			checkFile(t, path)
			if !o.met {
				break // the child makes fewer such calls
			}
			if strings.Contains(inject, "KILL") {
				outcomes["killed"]++
			}
			if n > 60 {
				t.Fatalf("%s is still met", inject)
			}
		}
	}
	for _, want := range []string{"written, there", "failed, absent", "full, absent", "unsure, unsure", "killed"} {
		if outcomes[want] == 0 {
			t.Errorf("no fault led to %q; there were %v", want, outcomes)
		}
	}
	t.Log(outcomes)
}

// A View shows nothing that a power cut could take back: a reader must not see a row whose commit is not synced.
func TestViewShowsWhatIsSynced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "site.db")
	s, err := bolt.Open(bolt.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	// Each Update syncs its pages and then its meta page: the fourth sync is that of row 1, and it takes long.
	o := underFault(t, path, "fdatasync:delay_enter=200000:when=4", faultReader+"=1")
	synced := 0
	for call := range strings.Lines(o.trace) {
		if strings.Contains(call, "fdatasync") && strings.Contains(call, "= 0") {
			synced++
		}
		if strings.Contains(call, `write(1, "1 by reader`) {
			if synced < 4 {
				t.Errorf("row 1 was read after %d syncs, want 4:\n%s", synced, o.trace)
			}
			return
		}
	}
	t.Errorf("row 1 was not read:\n%s", o.trace)
}

// line is what the child printed of a row.
type line struct{ row, said, seen string }

// observed is what was seen of a child.
type observed struct {
	lines []line // of its Updates
	met   bool   // the fault was met
	trace string // strace's
}

// underFault runs the child under a fault, in strace's words.
func underFault(t *testing.T, path, inject string, env ...string) (o observed) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	killed := strings.Contains(inject, "KILL")
	args := []string{"-f", "-qq", "-o", trace, "-e", "trace=pwrite64,fdatasync,write", "-e", "inject=" + inject, os.Args[0]}
	if !killed {
		args = append([]string{"--seccomp-bpf"}, args...) // faster; but with it strace injects no signals
	}
	cmd := exec.CommandContext(t.Context(), "strace", args...)
	cmd.Env = append(append(os.Environ(), faultPath+"="+path), env...)
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil && !killed {
		t.Fatalf("%s: %v: %s", inject, err, words.Bytes())
	}
	for r := bufio.NewScanner(bytes.NewReader(out)); r.Scan(); {
		var l line
		if _, err := fmt.Sscan(r.Text(), &l.row, &l.said, &l.seen); err != nil {
			t.Fatalf("child printed %q", r.Text())
		}
		if l.said != "by" {
			o.lines = append(o.lines, l)
		}
	}
	calls, rerr := os.ReadFile(trace)
	if rerr != nil {
		t.Fatal(rerr)
	}
	o.trace = string(calls)
	o.met = strings.Contains(o.trace, "(INJECTED)") || killed && err != nil
	if !o.met && len(o.lines) != faultRows {
		t.Fatalf("%s: the child printed %v", inject, o.lines)
	}
	return o
}

func put(t *testing.T, s store.Store, key string) {
	t.Helper()
	if _, err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Put(key, make([]byte, 20000)) }); err != nil {
		t.Fatal(err)
	}
}
