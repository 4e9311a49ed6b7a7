package machine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"widecloud/internal/lab/image"
	"widecloud/internal/lab/machine"
	"widecloud/internal/netio"
)

// kinds returns which kinds of leaks there are now, having waited for none.
func kinds(t *testing.T, s machine.State) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	leaks, err := s.Diff(ctx)
	must(t, err)
	var out []string
	for _, l := range leaks {
		if !slices.Contains(out, l.Kind) {
			out = append(out, l.Kind)
		}
	}
	slices.Sort(out)
	return out
}

// TestLeakCheckSeesEveryKind leaves one thing of each kind behind on purpose.
func TestLeakCheckSeesEveryKind(t *testing.T) {
	own := machine.Scope{Name: fmt.Sprintf("lk%d", os.Getpid()), Base: t.TempDir()}
	before, err := machine.Snapshot(own)
	must(t, err)
	root, err := netio.CurrentNS()
	must(t, err)
	defer root.Close()
	stateDir := filepath.Join(own.Base, own.Name)
	if got := kinds(t, before); len(got) > 0 {
		t.Fatalf("before anything: %v", got)
	}
	// Each returns how to take it away again.
	leave := map[string]func() func(){
		"namespace": func() func() {
			ns, err := netio.CreateNS(own.Name + "-left")
			must(t, err)
			return func() { ns.Close(); must(t, netio.DeleteNS(own.Name+"-left")) }
		},
		"link": func() func() {
			name := own.Name + "x"
			must(t, root.AddVeth(netio.VethSpec{Name: name, PeerName: name + "y"}))
			return func() { must(t, root.DeleteLink(name)) }
		},
		"file": func() func() {
			must(t, os.Mkdir(stateDir, 0o755))
			return func() { must(t, os.RemoveAll(stateDir)) }
		},
		"mount": func() func() {
			dir := filepath.Join(stateDir, "m")
			must(t, os.MkdirAll(dir, 0o755), syscall.Mount("none", dir, "tmpfs", 0, ""))
			return func() { must(t, syscall.Unmount(dir, 0), os.RemoveAll(stateDir)) }
		},
		"process": func() func() {
			// Orphaned, so that only its environment tells whose it is.
			cmd := exec.Command("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
			cmd.Env = append(os.Environ(), "WIDECLOUD_LAB="+own.Name)
			out, err := cmd.Output()
			must(t, err)
			var pid int
			fmt.Sscan(string(out), &pid)
			return func() {
				must(t, syscall.Kill(pid, syscall.SIGKILL))
				eventually(t, "the orphan is gone", func() bool { return !slices.Contains(kinds(t, before), "process") })
			}
		},
		"ebpf": func() func() {
			fd := loadProgram(t)
			return func() { syscall.Close(fd) }
		},
	}
	for kind, f := range leave {
		undo := f()
		got := kinds(t, before)
		undo()
		want := []string{kind}
		switch kind {
		case "mount":
			want = []string{"file", "mount"}
		case "namespace":
			want = []string{"mount", "namespace"}
		}
		if !slices.Equal(got, want) {
			t.Errorf("left a %s, the check sees %v", kind, got)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if leaks, err := before.Diff(ctx); err != nil || len(leaks) > 0 {
		t.Errorf("after all was taken away: %v %v", leaks, err)
	}
}

// TestLeakCheckLeavesOthersAlone: an eBPF program is none of a lab's remains as long as
// a stranger, or another lab, holds it in any way; it counts when only we do.
func TestLeakCheckLeavesOthersAlone(t *testing.T) {
	other := node(t, open(t), machine.NodeOptions{Name: "h1"})
	own := machine.Scope{Name: fmt.Sprintf("lo%d", os.Getpid()), Base: t.TempDir()}
	before, err := machine.Snapshot(own)
	must(t, err)
	f := os.NewFile(uintptr(loadProgram(t)), "program")
	pin := other.Path("/sys/fs/bpf/p")
	for _, c := range []struct {
		name string
		hold func() (release func())
	}{
		{"a process has it open", func() func() {
			cmd := exec.Command("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
			cmd.ExtraFiles = []*os.File{f}
			out, err := cmd.Output()
			must(t, err)
			var pid int
			fmt.Sscan(string(out), &pid)
			return func() { must(t, syscall.Kill(pid, syscall.SIGKILL)) }
		}},
		{"pinned by another lab's machine", func() func() {
			pinProgram(t, f, pin)
			return func() { must(t, os.Remove(pin)) }
		}},
		{"a filter of another lab's device", func() func() {
			pinProgram(t, f, pin)
			sh(t, other, "tc qdisc add dev lo clsact && tc filter add dev lo ingress bpf da object-pinned /sys/fs/bpf/p")
			must(t, os.Remove(pin))
			return func() { sh(t, other, "tc qdisc del dev lo clsact") }
		}},
		{"XDP of another lab's device", func() func() {
			sh(t, other, "ip link add v type veth peer name w")
			x := os.NewFile(uintptr(loadProgramOf(t, 6)), "program")
			pinProgram(t, x, pin)
			sh(t, other, "ip link set v xdpgeneric pinned /sys/fs/bpf/p")
			must(t, os.Remove(pin), f.Close())
			f = x
			return func() { sh(t, other, "ip link del v") }
		}},
	} {
		release := c.hold()
		if got := kinds(t, before); len(got) > 0 {
			t.Errorf("%s: %v", c.name, got)
		}
		release()
		eventually(t, c.name+": it counts when only we hold it", func() bool { return slices.Equal(kinds(t, before), []string{"ebpf"}) })
	}
	must(t, f.Close())
	eventually(t, "the program has gone", func() bool { return len(kinds(t, before)) == 0 })
}

// TestLeakCheckSeesNoOtherLab: what this program runs for another lab is none of a
// lab's remains; what it runs for none is.
func TestLeakCheckSeesNoOtherLab(t *testing.T) {
	own := machine.Scope{Name: fmt.Sprintf("lp%d", os.Getpid()), Base: t.TempDir()}
	before, err := machine.Snapshot(own)
	must(t, err)
	for lab, want := range map[string][]string{"other": nil, "": {"process"}, own.Name: {"process"}} {
		cmd := exec.Command("sleep", "1000")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		if lab != "" {
			cmd.Env = append(cmd.Env, "WIDECLOUD_LAB="+lab)
		}
		must(t, cmd.Start())
		eventually(t, fmt.Sprintf("a process of lab %q is seen as %v", lab, want), func() bool { return slices.Equal(kinds(t, before), want) })
		must(t, cmd.Process.Kill())
		cmd.Wait()
	}
}

// loadProgram loads an eBPF program that returns 0: a tc filter.
func loadProgram(t *testing.T) int { return loadProgramOf(t, 3) }

// loadProgramOf loads one of a type of linux/bpf.h.
func loadProgramOf(t *testing.T, kind uint32) int {
	insns := [2]uint64{0xb7, 0x95} // r0 = 0; exit
	license := []byte("GPL\x00")
	attr := struct {
		kind, count    uint32
		insns, license uint64
		rest           [104]byte
	}{kind: kind, count: 2, insns: uint64(uintptr(unsafe.Pointer(&insns))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	const progLoad = 5
	return bpf(t, progLoad, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// pinProgram pins a program at a path of a bpffs.
func pinProgram(t *testing.T, program *os.File, path string) {
	name := append([]byte(path), 0)
	attr := struct {
		name      uint64
		fd, flags uint32
	}{name: uint64(uintptr(unsafe.Pointer(&name[0]))), fd: uint32(program.Fd())}
	const objPin = 6
	bpf(t, objPin, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(name)
}

func bpf(t *testing.T, command uintptr, attr unsafe.Pointer, size uintptr) int {
	t.Helper()
	const sysBPF = 321
	fd, _, errno := syscall.Syscall(sysBPF, command, uintptr(attr), size)
	if errno != 0 {
		t.Fatalf("bpf(2), command %d: %v", command, errno)
	}
	return int(fd)
}

// victim runs a lab that is going to be killed; see TestKilledLabIsSwept.
func victim(base string) {
	l, err := machine.Open(machine.Options{Name: "victim", Base: base})
	if err == nil {
		var n *machine.Node
		if n, err = l.AddNode(machine.NodeOptions{Name: "h1"}); err == nil {
			_, err = n.Start(machine.ProcessOptions{Name: "p", Args: []string{"sh", "-c", "sleep 1000 & sleep 1000"}})
		}
		if system := os.Getenv("LAB_VICTIM_SYSTEM"); system != "" && err == nil {
			_, err = l.AddSystemHost(machine.NodeOptions{Name: "h2", System: system})
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("up")
	select {}
}

func TestKilledLabIsSwept(t *testing.T) { killVictim(t, "", "file mount namespace") }

// TestKilledSystemIsSwept: systemd and its services end with the program that has booted them; their control groups, and the
// eBPF programs that systemd has attached to these, are swept with the rest.
func TestKilledSystemIsSwept(t *testing.T) {
	system, err := image.System(t.Context(), image.Hypervisor)
	must(t, err)
	killVictim(t, system, "cgroup ebpf file mount namespace")
}

// killVictim kills a program with a lab, and sweeps what that leaves.
func killVictim(t *testing.T, system, leaves string) {
	t.Helper()
	scope := machine.Scope{Name: "victim", Base: t.TempDir()}
	before, err := machine.Snapshot(scope)
	must(t, err)
	stranger, err := machine.Snapshot(machine.Scope{Name: "stranger", Base: scope.Base})
	must(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LAB_VICTIM="+scope.Base, "LAB_VICTIM_SYSTEM="+system)
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "up\n" {
		t.Fatalf("victim says %q", line)
	}
	if _, err := machine.Sweep(scope.Base, "victim"); !errors.Is(err, machine.ErrRunning) {
		t.Errorf("sweep of a live lab: %v", err)
	}
	if pid, err := machine.Owner(scope.Base, "victim"); err != nil || pid != cmd.Process.Pid {
		t.Errorf("owner: %d %v", pid, err)
	}
	if swept, err := machine.Sweep(scope.Base, ""); err != nil || len(swept) > 0 {
		t.Errorf("sweep of all takes a live lab: %v %v", swept, err)
	}
	must(t, cmd.Process.Kill())
	cmd.Wait()
	eventually(t, "its processes end by themselves", func() bool { return !slices.Contains(kinds(t, before), "process") })
	if got := kinds(t, stranger); len(got) > 0 {
		t.Errorf("another lab sees of a killed one: %v", got)
	}
	if got := strings.Join(kinds(t, before), " "); got != leaves {
		t.Errorf("a killed lab leaves %s", got)
	}
	if swept, err := machine.Sweep(scope.Base, ""); err != nil || !slices.Equal(swept, []string{"victim"}) {
		t.Errorf("sweep: %v %v", swept, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if leaks, err := before.Diff(ctx); err != nil || len(leaks) > 0 {
		t.Errorf("after the sweep: %v %v", leaks, err)
	}
}
