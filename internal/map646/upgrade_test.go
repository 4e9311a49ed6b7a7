package map646_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"widecloud/internal/map646"
)

// daemon runs the translator as a program in gw.
func (w *world) daemon(conf string) (process *os.Process, path, socket string) {
	w.t.Helper()
	dir := w.t.TempDir()
	path, socket = filepath.Join(dir, "map646.toml"), filepath.Join(dir, "s")
	w.config(path, conf, socket)
	return w.daemonAgain(path, socket), path, socket
}

func (w *world) daemonAgain(path, socket string) *os.Process {
	w.t.Helper()
	cmd := w.start("gw", program(w.t), "run", "-c", path)
	w.until("control socket", 10*time.Second, func() bool {
		return map646.Control(context.Background(), socket, "stats", new(map646.Stats)) == nil
	})
	return cmd.Process
}

// upgrade asks for one and waits until the new program answers.
func (w *world) upgrade(socket, binary string) map646.Stats {
	w.t.Helper()
	s := w.stats(socket)
	n := s.Upgrades
	w.must(w.ask(socket, "upgrade?binary="+url.QueryEscape(binary), "", &s))
	w.until("the new program", 20*time.Second, func() bool {
		s = map646.Stats{}
		return map646.Control(context.Background(), socket, "stats", &s) == nil && s.Upgrades == n+1
	})
	return s
}

// TestUpgrade: the program is replaced while connections go on, on either path.
func TestUpgrade(t *testing.T) {
	for _, fast := range []bool{false, true} {
		t.Run(map[bool]string{false: "full", true: "fast"}[fast], func(t *testing.T) {
			w := small(t)
			mappings := filepath.Join(t.TempDir(), "mappings")
			w.must(writeFile(mappings, "map-static 203.0.113.254 2001:db8:a::99\n"))
			conf := fmt.Sprintf("mappings_file = %q\n", mappings) + conf
			if fast {
				conf = withFast(conf, bpffs(t))
			}
			process, path, socket := w.daemon(conf)
			var done map646.Changed
			w.must(w.ask(socket, "change", "add 203.0.113.11 2001:db8:a::11", &done))
			end := w.streams()
			time.Sleep(300 * time.Millisecond)
			rounds := 2
			if fast {
				rounds++
			}
			for range 2 {
				before := w.stats(socket)
				s := w.upgrade(socket, program(t))
				if s.PID != process.Pid || s.PID != before.PID || s.Mappings != 2 || s.Updates != 1 || s.RefusedLines != 1 || !s.Started.Equal(before.Started) {
					t.Errorf("after an upgrade: %+v\nbefore: %+v", s, before)
				}
				for name, n := range before.Packets {
					if s.Packets[name] < n {
						t.Errorf("after an upgrade %d packets %s, before %d", s.Packets[name], name, n)
					}
				}
				if fast && (s.Fast == nil || len(s.Fast.Attached) != 2 || s.Fast.Packets["6to4"] < before.Fast.Packets["6to4"]) {
					t.Errorf("fast path after an upgrade: %+v\nbefore: %+v", s.Fast, before.Fast)
				}
				time.Sleep(300 * time.Millisecond)
				if now := w.stats(socket); !fast && now.Packets["6to4"] == s.Packets["6to4"] || fast && now.Fast.Packets["6to4"] == s.Fast.Packets["6to4"] {
					t.Errorf("the new program carries nothing: %+v", now)
				}
				// What was changed while it ran is still there, though in no file.
				w.run("client4", "ping", "-c", "1", "-W", "2", "203.0.113.11")
			}
			// Its counters went along; those of a mapping that comes anew begin at zero.
			counted := func(want uint64) {
				t.Helper()
				var table []map646.TableEntry
				w.must(w.ask(socket, "table", "", &table))
				i := slices.IndexFunc(table, func(e map646.TableEntry) bool { return e.Outside == "203.0.113.11" })
				if i < 0 || table[i].PacketsIn != want || table[i].PacketsOut != want {
					t.Errorf("want %d packets to 203.0.113.11 and from it: %+v", want, table)
				}
			}
			counted(2)
			w.must(w.ask(socket, "change", "remove 203.0.113.11", &done))
			w.must(w.ask(socket, "change", "add 203.0.113.11 2001:db8:a::11", &done))
			counted(0)
			if fast {
				// What was turned off stays off.
				var s map646.Stats
				w.must(w.ask(socket, "fast?on=false", "", &s))
				if s = w.upgrade(socket, ""); s.Fast.On || len(s.Fast.Attached) > 0 || s.Fast.Why != "turned off" {
					t.Errorf("fast path, turned off before an upgrade: %+v", s.Fast)
				}
				w.must(w.ask(socket, "fast?on=true", "", &s))
			}
			// A program that cannot run changes nothing.
			before := w.stats(socket)
			for what, binary := range map[string]string{"no such file": "/nonexistent/map646", "ended before": "/bin/false"} {
				err := w.ask(socket, "upgrade?binary="+binary, "", &before)
				if err == nil || !strings.Contains(err.Error(), what) {
					t.Errorf("upgrade to %s: %v", binary, err)
				}
			}
			w.config(path, conf+"\nnonsense = 1\n", socket)
			if err := w.ask(socket, "upgrade", "", &before); err == nil || !strings.Contains(err.Error(), "nonsense") {
				t.Errorf("upgrade with a bad configuration: %v", err)
			}
			w.config(path, conf, socket)
			end()
			s := w.stats(socket)
			if s.Upgrades != rounds || s.PID != process.Pid || len(s.Unhealthy) > 0 {
				t.Errorf("in the end: %+v", s)
			}
			w.must(process.Signal(syscall.SIGTERM))
			w.until("the device is gone", 10*time.Second, func() bool {
				_, err := w.ns["gw"].Link("map646")
				return err != nil
			})
		})
	}
}

// TestKilledFast: a daemon that is killed leaves the fast path at work, and the
// next one adopts it, under a download and without a hole.
func TestKilledFast(t *testing.T) {
	w := small(t)
	pin := bpffs(t) + "/p"
	process, path, socket := w.daemon(withFast(conf, pin))
	end := w.streams()
	time.Sleep(300 * time.Millisecond)
	before := w.stats(socket)
	w.must(process.Kill())
	process.Wait()
	time.Sleep(500 * time.Millisecond) // the kernel is on its own
	w.daemonAgain(path, socket)
	s := w.stats(socket)
	if s.PID == before.PID || !slices.Equal(s.Fast.Attached, []string{"router", "server"}) || s.Fast.Packets["6to4"] <= before.Fast.Packets["6to4"] {
		t.Errorf("adopted: %+v\nbefore: %+v", s.Fast, before.Fast)
	}
	end()
	var table []map646.TableEntry
	w.must(map646.Control(t.Context(), socket, "table", &table))
	for _, e := range table[1:] {
		if e.PacketsOut < 10 {
			t.Errorf("counters after a kill: %+v", e)
		}
	}
	// One that is told not to use it takes what was left away.
	again := w.stats(socket).PID
	p, err := os.FindProcess(again)
	w.must(err, p.Kill())
	w.until("the process is gone", 5*time.Second, func() bool {
		_, err := w.ns["gw"].Link("map646")
		return err != nil
	})
	w.config(path, strings.Replace(withFast(conf, pin), `"rou*", "server"`, "", 1), socket)
	w.daemonAgain(path, socket)
	if list, err := os.ReadDir(pin); err == nil && len(list) > 0 {
		t.Errorf("still pinned: %v", list)
	}
	if s := w.stats(socket); s.Fast != nil {
		t.Errorf("a fast path that is not configured: %+v", s.Fast)
	}
	w.run("client4", "ping", "-c", "1", "-W", "2", "203.0.113.10")
}
