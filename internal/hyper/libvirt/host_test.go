package libvirt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/hypertest"
	"widecloud/internal/hyper/libvirt"
)

// host is a hypervisor host in namespaces of its own (mount, network, UTS, IPC, PID), with its own libvirtd. It shares this
// machine's file system and users but for what libvirt keeps, and for a small file system for disks, so that one can be full.
type host struct {
	name string
	dir  string // its sockets and files
	vol  string // mount point of the disks' file system, in the host only
	cmd  *exec.Cmd
	pid  int // of the host's first process
}

// capabilities is where the libvirtds of all hosts keep what they learn of QEMU, which takes each of them seconds otherwise.
var capabilities string

const hostScript = `
set -e
mount --make-rprivate /
mount -t proc proc /proc
for d in /run /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do mkdir -p $d; mount -t tmpfs tmpfs $d; done
mount -t tmpfs -o size=12m tmpfs "$VOL"
mkdir -p /run/libvirt /run/lock /var/lib/libvirt/qemu
mkdir -p /var/cache/libvirt/qemu/capabilities
mount --bind "$CACHE" /var/cache/libvirt/qemu/capabilities
echo "$UUID" | tr -d - > "$DIR/machine-id"
mount --bind "$DIR/machine-id" /etc/machine-id
for f in passwd group; do cp /etc/$f "$DIR/$f"; done
grep -q ^libvirt-qemu: "$DIR/passwd" || echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' >> "$DIR/passwd"
for g in kvm:x:64054: libvirt-qemu:x:64055: libvirt:x:64056:; do grep -q "^${g%%:*}:" "$DIR/group" || echo $g >> "$DIR/group"; done
for f in passwd group; do mount --bind "$DIR/$f" /etc/$f; done
hostname "$NAME"
ip link set lo up
ip link add br-blue mtu 1430 type bridge
ip link set br-blue up
cat > /etc/libvirt/libvirtd.conf <<END
host_uuid = "$UUID"
unix_sock_dir = "$DIR"
auth_unix_ro = "none"
auth_unix_rw = "none"
END
cat > /etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
END
touch "$DIR/up"
# The first process has to reap: libvirtd waits long and with locks held for a QEMU that is dead but not reaped.
while :; do sleep 1000 & wait; done
`

// newHost powers one on. It goes down with the test, and with the test's process.
func newHost(t testing.TB, name string) *host {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "wcc-hv-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{name: name, dir: dir, vol: filepath.Join(dir, "vol")}
	if err := os.Mkdir(h.vol, 0o755); err != nil {
		t.Fatal(err)
	}
	uuid := hypertest.NewVM()
	h.cmd = exec.Command("unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "bash", "-c", hostScript)
	h.cmd.Env = append(os.Environ(), "NAME="+name, "UUID="+uuid, "DIR="+dir, "VOL="+h.vol, "CACHE="+capabilities)
	var out bytes.Buffer
	h.cmd.Stdout, h.cmd.Stderr = &out, &out
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && h.pid != 0 {
			// The first thing that is asked of a guest that is gone.
			logs, _ := h.in("sh", "-c", "tail -n 30 /var/log/libvirt/qemu/*.log /var/log/libvirt/libvirtd.log 2>&1").CombinedOutput()
			t.Logf("logs of %s:\n%s", name, logs)
		}
		h.powerOff()
	})
	children := fmt.Sprintf("/proc/%d/task/%d/children", h.cmd.Process.Pid, h.cmd.Process.Pid)
	until(t, "host "+name, func() bool {
		b, _ := os.ReadFile(children)
		h.pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		if h.pid == 0 {
			return false
		}
		_, err := os.Stat(filepath.Join(dir, "up"))
		return err == nil
	})
	h.startLibvirtd(t)
	return h
}

func (h *host) powerOff() {
	if h.pid != 0 {
		syscall.Kill(h.pid, syscall.SIGKILL)
	}
	h.cmd.Process.Kill()
	h.cmd.Wait()
}

func (h *host) in(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(h.pid), "-m", "-n", "-u", "-i", "-p"}, args...)...)
}

func (h *host) run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := h.in(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %v: %s", h.name, args, err, out)
	}
	return string(out)
}

func (h *host) startLibvirtd(t testing.TB) {
	t.Helper()
	h.run(t, "libvirtd", "-d")
	until(t, "libvirtd of "+h.name, func() bool {
		return h.in("virsh", "-q", "-c", "qemu+unix:///system?socket="+h.dir+"/libvirt-sock", "version").Run() == nil
	})
}

// killLibvirtd ends the daemon, by its own pid file; its guests run on.
func (h *host) killLibvirtd(t testing.TB) { h.signalLibvirtd(t, "KILL") }

func (h *host) signalLibvirtd(t testing.TB, signal string) {
	t.Helper()
	h.run(t, "kill", "-"+signal, strings.TrimSpace(h.run(t, "cat", "/run/libvirtd.pid")))
}

func (h *host) driver(t testing.TB) *libvirt.Driver {
	t.Helper()
	d, err := libvirt.New(libvirt.Options{Socket: h.dir + "/libvirt-sock", Dir: h.dir + "/s", Accel: libvirt.TCG})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// spec makes a VM that boots the probe guest: its overlay is fresh, the base is the same on all hosts.
func (h *host) spec(t testing.TB, vm string, epoch uint64) hyper.Spec {
	t.Helper()
	base, disk, seed := h.vol+"/base.raw", h.vol+"/"+vm+".qcow2", h.vol+"/"+vm+".seed"
	guest, err := filepath.Abs("probe/guest.bin")
	if err != nil {
		t.Fatal(err)
	}
	h.run(t, "sh", "-ec", fmt.Sprintf(`
		test -e %[1]s || { cp %[4]s %[1]s; truncate -s 8M %[1]s; }
		truncate -s 64K %[3]s
		rm -f %[2]s; qemu-img create -q -f qcow2 -F raw -b %[1]s %[2]s`, base, disk, seed, guest))
	return hyper.Spec{
		VM: vm, Name: "a <test> & more", Epoch: epoch, Hardware: api.Hardware{CPUs: 1, MemoryMiB: 16},
		Disks: []hyper.Disk{
			{Target: "vda", Path: disk, Format: "qcow2", Base: base, BaseFormat: "raw"},
			{Target: "vdb", Path: seed, Format: "raw", ReadOnly: true},
		},
		NICs: []hyper.NIC{{Bridge: "br-blue", MAC: "02:57:43:01:02:03", MTU: 1430}},
	}
}

var reStatus = regexp.MustCompile(`b([0-9a-f]{8})c([0-9a-f]{8})\n`)

// look asks the guest for its identity and count.
func look(t testing.TB, d hyper.Driver, vm string) hypertest.Guest {
	t.Helper()
	c, err := d.Console(context.Background(), vm)
	if err != nil {
		if errors.Is(err, hyper.ErrNotFound) {
			return hypertest.Guest{}
		}
		t.Fatal(err)
	}
	defer c.Close()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		// While it boots nobody listens.
		for {
			if _, err := c.Write([]byte("?")); err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Millisecond):
			}
		}
	}()
	timeout := time.AfterFunc(hypertest.Patience, func() { c.Close() })
	defer timeout.Stop()
	var seen []byte
	buf := make([]byte, 256)
	for {
		n, err := c.Read(buf)
		seen = append(seen, buf[:n]...)
		if m := reStatus.FindSubmatch(seen); m != nil {
			count, _ := strconv.ParseUint(string(m[2]), 16, 64)
			return hypertest.Guest{Boot: string(m[1]), Counter: count}
		}
		if err != nil {
			t.Fatalf("guest says nothing: %v after %q", err, seen)
		}
	}
}

func (h *host) env() hypertest.Host {
	return hypertest.Host{
		Connect: func(t *testing.T) hyper.Driver { return h.driver(t) },
		Spec:    func(t *testing.T, vm string, epoch uint64) hyper.Spec { return h.spec(t, vm, epoch) },
		Disk: func(t *testing.T, vm, target string) hyper.Disk {
			path := h.vol + "/" + vm + "." + target + ".qcow2"
			h.run(t, "sh", "-ec", fmt.Sprintf("rm -f %[1]s; qemu-img create -q -f qcow2 %[1]s 1M", path))
			return hyper.Disk{Target: target, Serial: "disk-" + target, Path: path, Format: "qcow2"}
		},
		Size: func(t *testing.T, vm string, k hyper.Disk) int64 {
			out := h.run(t, "virsh", "-q", "-c", "qemu+unix:///system?socket="+h.dir+"/libvirt-sock", "domblkinfo", vm, k.Path)
			m := regexp.MustCompile(`Capacity: *([0-9]+)`).FindStringSubmatch(out)
			if m == nil {
				t.Fatalf("domblkinfo says %q", out)
			}
			n, err := strconv.ParseInt(m[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Guest: func(t *testing.T, d hyper.Driver, vm string) hypertest.Guest { return look(t, d, vm) },
		Memory: func(t *testing.T, vm string) string {
			path := h.vol + "/" + vm + ".memory"
			t.Cleanup(func() { h.run(t, "rm", "-f", path) })
			return path
		},
		ReadMemory: func(t *testing.T, vm string) []byte { return []byte(h.run(t, "cat", h.vol+"/"+vm+".memory")) },
		WriteMemory: func(t *testing.T, vm string, content []byte) {
			c := h.in("sh", "-c", "cat > "+h.vol+"/"+vm+".memory")
			c.Stdin = bytes.NewReader(content)
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("write memory: %v: %s", err, out)
			}
		},
		Tear: func(t *testing.T, vm string) { // as libvirt marks a file until all has been written
			h.run(t, "sh", "-ec", fmt.Sprintf("printf LibvirtQemudPart | dd of=%s/%s.memory conv=notrunc status=none", h.vol, vm))
		},
		Fill: func(t *testing.T, s hyper.Spec) {
			h.in("dd", "if=/dev/zero", "of="+h.vol+"/fill", "bs=4k").Run() // ends with "no space left"
			t.Cleanup(func() { h.run(t, "rm", "-f", h.vol+"/fill") })
		},
	}
}

func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(hypertest.Patience); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}
