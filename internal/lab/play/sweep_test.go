package play_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/play"
	"widecloud/internal/lab/topic/flow"
)

var kills = flag.Int("kills", 0, "how many labs TestKilledAnyTime kills at random moments, beside those of its table")

// sweepScript has every kind of machine, and VMs on them.
const sweepScript = `
site alpha hosts 2 gateway
site beta hosts 5 simulated
server disks runs tgt at alpha
server files runs ganesha at alpha
host alpha/h2 systemd
image tiny
network blue owner alpha prefix 2001:db8:b1ae:1::/64
vm a owner alpha network blue at alpha/h1
vm b owner alpha network blue at alpha/h2
expect a running within 2m
expect b running within 2m
sleep 10m
`

// bystanderScript is another lab, whose translator has eBPF programs of all kinds.
const bystanderScript = `
translator br1
server web1 service 203.0.113.10
`

// victim is a lab run by a program that is going to be killed.
type victim struct {
	*testing.T
	name, bin, script string
	cmd               *exec.Cmd
	peak              int // of the namespaces seen so far

	mu  sync.Mutex
	out bytes.Buffer
}

func (v *victim) Write(b []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.out.Write(b)
}

func (v *victim) said(text string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Count(v.out.String(), text)
}

// start starts wcc lab COMMAND.
func (v *victim) start(command string, args ...string) {
	v.Helper()
	v.mu.Lock()
	v.out.Reset()
	v.mu.Unlock()
	v.peak = 0
	v.cmd = exec.Command(filepath.Join(v.bin, "wcc"), append([]string{"lab", command, "--name", v.name}, args...)...)
	v.cmd.Stdout, v.cmd.Stderr = v, v
	v.cmd.WaitDelay = time.Second // what it has started may hold its output
	must(v.T, v.cmd.Start())
}

// namespaces counts those that the lab has.
func (v *victim) namespaces() int {
	found, err := filepath.Glob("/run/netns/" + v.name + "-*")
	must(v.T, err)
	v.peak = max(v.peak, len(found))
	return len(found)
}

// shrinks tells whether some of the namespaces have gone.
func (v *victim) shrinks() bool { return v.namespaces() < v.peak }

// killWhen kills the program as soon as something is so, if it has not ended.
func (v *victim) killWhen(now func() bool) {
	v.Helper()
	ended := make(chan error, 1)
	go func() { ended <- v.cmd.Wait() }()
	deadline := time.Now().Add(3 * time.Minute)
	for !now() {
		select {
		case <-ended:
			v.Logf("%s has ended before it was killed:\n%s", v.cmd, v.out.String())
			return
		default:
		}
		if time.Now().After(deadline) {
			v.cmd.Process.Kill()
			v.Fatalf("the moment never comes:\n%s", v.out.String())
		}
		time.Sleep(time.Millisecond)
	}
	v.cmd.Process.Kill()
	<-ended
}

// TestKilledAnyTime: a lab whose program is killed with SIGKILL at any moment, and the
// next one of its name while it sweeps, leaves nothing after wcc lab down, even if that
// was killed once. Nor does anybody see or harm another lab that is up meanwhile.
func TestKilledAnyTime(t *testing.T) {
	v := &victim{T: t, name: fmt.Sprintf("kv%d", os.Getpid()), bin: programs(t), script: filepath.Join(t.TempDir(), "victim.lab")}
	must(t, os.WriteFile(v.script, []byte(sweepScript), 0o644))
	t.Cleanup(func() { os.RemoveAll(filepath.Join(os.TempDir(), "widecloud-lab-logs", v.name)) })
	before, err := machine.Snapshot(machine.Scope{Name: v.name})
	must(t, err)
	s, err := play.Parse("bystander.lab", bystanderScript)
	must(t, err)
	bystander := build(t, s, v.bin)

	type moment struct {
		name string
		now  func(*victim) bool
	}
	running := func(v *victim) bool { return v.said("passed at alpha/h") == 2 }
	moments := []moment{
		{"while it opens", func(v *victim) bool {
			found, err := filepath.Glob(filepath.Join(machine.BaseDir(), v.name) + "*")
			return err == nil && len(found) > 0
		}},
		{"while machines are made", func(v *victim) bool { return v.namespaces() >= 3 }},
		{"while systemd boots", func(v *victim) bool {
			found, err := filepath.Glob("/sys/fs/cgroup/*/wcclab." + v.name + ".*/*")
			return err == nil && len(found) > 0
		}},
		{"while VMs run", running},
		{"while it takes down", func(v *victim) bool {
			if running(v) && v.said("everything is taken down") == 0 {
				v.cmd.Process.Signal(syscall.SIGTERM)
			}
			return v.said("everything is taken down") > 0 && v.shrinks()
		}},
	}
	for range *kills {
		after := time.Duration(rand.Int64N(int64(20 * time.Second)))
		moments = append(moments, moment{fmt.Sprintf("after %v", after), func(v *victim) bool {
			time.Sleep(after)
			return true
		}})
	}
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			v.T = t
			v.start("run", v.script)
			v.killWhen(func() bool { return m.now(v) })
			// The next one removes first what this one has left.
			v.start("run", v.script)
			v.killWhen(func() bool { return v.shrinks() || m.now(v) })
			v.start("down")
			v.killWhen(v.shrinks)
			out, err := exec.Command(filepath.Join(v.bin, "wcc"), "lab", "down", "--name", v.name).CombinedOutput()
			if err != nil {
				t.Errorf("wcc lab down: %v\n%s", err, out)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if leaks, err := before.Diff(ctx); err != nil || len(leaks) > 0 {
				t.Errorf("left: %v %v", leaks, err)
			}
			page, err := flow.Request(ctx, bystander.From("inet4"), http.MethodGet, "http://203.0.113.10/")
			if err != nil || !strings.Contains(page, "server web1") {
				t.Errorf("the other lab: %q %v", page, err)
			}
		})
	}
}
