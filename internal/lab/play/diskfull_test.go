package play_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"widecloud/api"
)

// TestDiskFull migrates to a host whose disk is too small: for what the VM has written, and for the image itself. The job
// fails and says so, the VM goes on where it is, and the target is as it was.
func TestDiskFull(t *testing.T) {
	w := newWorld(t)
	boot := w.ask(http.MethodGet, "/boot")
	written := w.ask(http.MethodPut, "/disk?mb=32&seed=7")
	beta := w.host("beta")
	const dir = "/var/lib/widecloud/agent/vms"
	for _, c := range []struct {
		what string
		mib  int
	}{{"what was written", 24}, {"the image", 8}} {
		t.Run(c.what, func(t *testing.T) {
			w := &world{T: t, fed: w.fed, uid: w.uid}
			now := time.Now()
			must(t, beta.Stop("agent"))
			sh(t, beta.Node, fmt.Sprintf("mkdir -p %s && mount -t tmpfs -o size=%dm tmpfs %s", dir, c.mib, dir))
			_, err := beta.RestartWith("agent")
			must(t, err)
			w.connected(now, "beta")

			j := w.ended(w.begin("beta"))
			t.Logf("job %s at step %s: %s; reasons %+v", j.Status.State, j.Status.Step, j.Status.Message, j.Status.Reasons)
			if j.Status.State != api.JobFailed {
				t.Fatalf("job is %s", j.Status.State)
			}
			if !slices.ContainsFunc(j.Status.Reasons, func(r api.Reason) bool { return r.Code == "disk" && r.Advice != "" }) {
				t.Errorf("no reason has the code disk: %+v", j.Status.Reasons)
			}
			if slices.ContainsFunc(j.Status.Journal, func(r api.JournalRow) bool { return r.Step == "committed" }) {
				t.Errorf("journal: %+v", j.Status.Journal)
			}
			w.settled("alpha")
			if got := w.ask(http.MethodGet, "/boot"); got != boot {
				t.Errorf("boot id %s, was %s", got, boot)
			}
			if got := w.ask(http.MethodGet, "/disk?mb=32"); got != written {
				t.Errorf("disk %s, was %s", got, written)
			}
			// The base image may stay; half of one may not.
			must(t, filepath.WalkDir(beta.Path(dir), func(path string, d os.DirEntry, err error) error {
				if err == nil && !d.IsDir() && (strings.Contains(path, "/tmp/") || strings.Contains(path, "/base/") && c.what == "the image") {
					t.Errorf("left at the target: %s", path)
				}
				return err
			}))
		})
	}
	// With room it goes.
	now := time.Now()
	must(t, beta.Stop("agent"))
	sh(t, beta.Node, "umount "+dir+" && umount "+dir)
	_, err := beta.RestartWith("agent")
	must(t, err)
	w.connected(now, "beta")
	w.move("beta")
	w.settled("beta")
	if got := w.ask(http.MethodGet, "/disk?mb=32"); got != written {
		t.Errorf("disk after the migration %s, was %s", got, written)
	}
}
