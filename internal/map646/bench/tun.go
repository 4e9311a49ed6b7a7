package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"widecloud/internal/netio"
)

// The path tun is what a TUN costs by itself: IPv6 packets are led through a
// device like map646's, and a loop puts back each as it was read, with two system
// calls a packet, the runtime unaware of them. The scheduler treats it as any other;
// map646's readers have priority for bulk.

const tunName = "echo"

// runTUN is that loop. It ends with the process.
func runTUN(queues int) error {
	// As in runEnd.
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(queues + 2)
	ns, err := netio.CurrentNS()
	if err != nil {
		return err
	}
	t, err := ns.OpenTUN(netio.TUNSpec{Name: tunName, Queues: queues, Offload: true})
	if err != nil {
		return err
	}
	fds, err := t.Descriptors()
	if err != nil {
		return err
	}
	ended := make(chan error)
	for _, fd := range fds {
		if err := syscall.SetNonblock(fd, false); err != nil {
			return err
		}
		go func() { ended <- putBack(uintptr(fd)) }()
	}
	fmt.Println("up")
	return <-ended
}

func putBack(fd uintptr) error {
	runtime.LockOSThread()
	buf := make([]byte, 1<<17)
	at := uintptr(unsafe.Pointer(&buf[0]))
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, at, uintptr(len(buf)))
		if e == syscall.EINTR {
			continue
		}
		if e != 0 {
			return fmt.Errorf("read %s: %w", tunName, e)
		}
		// What the stack refuses is a packet lost.
		syscall.RawSyscall(syscall.SYS_WRITE, fd, at, n)
		runtime.KeepAlive(buf)
	}
}

// detour starts the loop and leads what both ends send into its device.
func (w *world) detour(ctx context.Context, queues int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if queues == 0 {
		queues = min(numCPU(), 8) // as map646
	}
	cmd := exec.Command(self, "-role", "tun", "-queues", fmt.Sprint(queues))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if w.daemon, err = w.start("t", cmd); err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("the loop of %s says %q: %w", tunName, line, err)
	}
	for _, c := range [][]string{
		{"route", "add", "default", "dev", tunName, "table", "100"},
		{"rule", "add", "iif", "c", "lookup", "100"},
		{"rule", "add", "iif", "s", "lookup", "100"},
	} {
		if _, err := w.run(ctx, "t", "", "ip", append([]string{"-6"}, c...)...); err != nil {
			return err
		}
	}
	return nil
}
