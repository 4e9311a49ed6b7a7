package libvirt

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// probeGuest is a boot sector that writes to its disk and answers "?" on its serial line (see probe/guest.S). It needs what any
// guest needs first: real mode, the timer's interrupts and a disk.
//
//go:embed probe/guest.bin
var probeGuest []byte

// probeTime is plenty for KVM, under which the boot sector answers within a second.
const probeTime = 8 * time.Second

// accelOnce is the choice, made once for a driver: guests of one host do not change their kind from start to start.
type accelOnce struct {
	mu    sync.Mutex
	done  bool
	accel Accel
	why   string
}

func (a *accelOnce) choose(ctx context.Context, o Options) (Accel, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return a.accel, a.why
	}
	switch o.Accel {
	case KVM:
		a.accel = KVM
	case TCG:
		a.accel, a.why = TCG, "configured so"
	default:
		a.accel = KVM
		if err := tryKVM(ctx, o.Emulator); err != nil {
			a.accel, a.why = TCG, err.Error()
			if ctx.Err() != nil {
				return a.accel, a.why // not the host's fault: tried again next time
			}
			o.Logger.Warn("kvm is not used", "why", a.why)
		}
	}
	a.done = true
	return a.accel, a.why
}

// tryKVM boots the probe under KVM. That /dev/kvm opens says little: there are hosts whose KVM takes a guest and never runs it.
func tryKVM(ctx context.Context, emulator string) error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("no kvm: %w", err)
	}
	f.Close()
	dir, err := os.MkdirTemp("", "wcc-kvm-")
	if err != nil {
		return fmt.Errorf("try kvm: %w", err)
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, append(bytes.Clone(probeGuest), make([]byte, 64<<10)...), 0o600); err != nil {
		return fmt.Errorf("try kvm: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, emulator, "-accel", "kvm", "-m", "16", "-nodefaults", "-no-user-config", "-display", "none",
		"-drive", "if=virtio,format=raw,file="+disk, "-serial", "stdio")
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("try kvm: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("try kvm: %w", err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("try kvm: %w", err)
	}
	answered := make(chan bool, 1)
	go func() {
		var seen []byte
		buf := make([]byte, 256)
		for {
			n, err := out.Read(buf)
			seen = append(seen, buf[:n]...)
			if bytes.Contains(seen, []byte("\n")) {
				answered <- true
				return
			}
			if err != nil {
				answered <- false
				return
			}
		}
	}()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	ok := false
wait:
	for {
		select {
		case ok = <-answered:
			break wait
		case <-tick.C:
			if _, err := in.Write([]byte("?")); err != nil {
				tick.Stop()
			}
		}
	}
	cancel()
	in.Close()
	cmd.Wait() // killed: its error says nothing new
	if ok {
		return nil
	}
	why := fmt.Sprintf("a guest makes no progress under kvm within %v", probeTime)
	if s := bytes.TrimSpace(stderr.Bytes()); len(s) > 0 {
		why += ": " + string(bytes.ReplaceAll(s, []byte("\n"), []byte("; ")))
	}
	return fmt.Errorf("%s", why)
}
