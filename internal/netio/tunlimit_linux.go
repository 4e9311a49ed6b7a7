package netio

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	objects "widecloud/bpf"
)

// backlog tells the device, which counts what super-packets it has been given, how
// many bytes of them its reader has read (bpf/backlog.c). The zero value tells nobody.
type backlog struct {
	in, out *uint64 // shared with the program; only the reader writes out
}

// The same as struct backlog of bpf/backlog.c.
const (
	backlogSize = 256
	backlogOut  = 128
)

// given is what the device has been given by now.
func (b *backlog) given() uint64 {
	if b.in == nil {
		return 0
	}
	return atomic.LoadUint64(b.in)
}

// took takes note that a super-packet of n bytes has been read.
func (b *backlog) took(n int) {
	if b.out != nil {
		atomic.StoreUint64(b.out, *b.out+uint64(n))
	}
}

// empty takes note that nothing waits of what had been given. It mends what took has
// not counted: packets that the device's ring had no room for. One that was on its way
// to the ring is then counted twice, and until the queue is empty again there may
// wait as much more as it had bytes.
func (b *backlog) empty(given uint64) {
	if b.out != nil && *b.out != given {
		atomic.StoreUint64(b.out, given)
	}
}

// unlimit takes the filter program from the device, if it has one. A kernel that knows
// of none has none.
func (t *TUN) unlimit() { _ = unix.IoctlSetPointerInt(t.queues[0].fd, unix.TUNSETFILTEREBPF, -1) }

// limit puts bpf/backlog.c before the device. The device keeps it until it goes.
func (t *TUN) limit(most int) error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(objects.Backlog))
	if err != nil {
		return err
	}
	if err := spec.Variables["most"].Set(uint64(most)); err != nil {
		return err
	}
	spec.Maps["backlogs"].MaxEntries = uint32(len(t.queues))
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	defer c.Close()
	program := c.DetachProgram("limit")
	t.programs = append(t.programs, program)
	page := unix.Getpagesize()
	size := (len(t.queues)*backlogSize + page - 1) / page * page
	shared, err := unix.Mmap(c.Maps["backlogs"].FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map backlogs: %w", err)
	}
	if err := unix.IoctlSetPointerInt(t.queues[0].fd, unix.TUNSETFILTEREBPF, program.FD()); err != nil {
		unix.Munmap(shared)
		return fmt.Errorf("set filter program: %w", err)
	}
	t.shared = shared
	for i, q := range t.queues {
		at := shared[i*backlogSize:]
		q.backlog = backlog{(*uint64)(unsafe.Pointer(&at[0])), (*uint64)(unsafe.Pointer(&at[backlogOut]))}
	}
	return nil
}
