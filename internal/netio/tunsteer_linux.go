package netio

import (
	"bytes"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	objects "widecloud/bpf"
)

// steer puts bpf/steer.c before the device, which keeps it until it goes.
func (t *TUN) steer() error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(objects.Steer))
	if err != nil {
		return err
	}
	p, err := ebpf.NewProgram(spec.Programs["steer"])
	if err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	t.programs = append(t.programs, p)
	if err := unix.IoctlSetPointerInt(t.queues[0].fd, unix.TUNSETSTEERINGEBPF, p.FD()); err != nil {
		return fmt.Errorf("set steering program: %w", err)
	}
	return nil
}
