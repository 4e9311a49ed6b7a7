package netio

import (
	"bytes"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	objects "widecloud/bpf"
)

// steer puts bpf/steer.c before the device that q is a queue of. The device keeps
// it until it goes.
func (q *TUNQueue) steer() error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(objects.Steer))
	if err != nil {
		return err
	}
	p, err := ebpf.NewProgram(spec.Programs["steer"])
	if err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	defer p.Close()
	if err := unix.IoctlSetPointerInt(q.fd, unix.TUNSETSTEERINGEBPF, p.FD()); err != nil {
		return fmt.Errorf("set steering program: %w", err)
	}
	return nil
}
