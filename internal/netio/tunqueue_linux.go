package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TUNQueue is one queue of a TUN. Read and Write may run at the same time, each
// in one goroutine.
//
// A queue does its own waiting. Were it the runtime's poller that waits, a packet
// would cost a wake-up of the poller's thread, often another one of the thread that
// then runs the reader, and the runtime's monitor, which has a look every 20 us while
// threads go to and fro: together about half of the daemon's part of a small packet. So system
// calls on packets are made without telling the runtime, and a Read that has had a
// packet in the last patience waits inside the kernel and keeps its processor (P)
// meanwhile. Whoever has n queues gives the runtime n processors more than it
// would have (runtime.GOMAXPROCS), or other goroutines may wait for patience.
type TUNQueue struct {
	name         string
	offload, uso bool

	inUse sync.RWMutex // for writing: to close the descriptors
	fd    int
	bell  int // an eventfd: readable unless state is open
	state atomic.Int32

	parking sync.Mutex // bell and state change together in Park and Unpark

	// Read's own.
	wait [2]unix.PollFd
	busy bool
	bulk
	backlog
}

const (
	queueOpen = iota
	queueParked
	queueClosed
)

// patience is for how long, in nanoseconds, a queue without packets waits as
// described. A collection of garbage does not have to wait for it: the runtime's
// signal ends ppoll, always (signal(7)).
const patience = 20e6

func newTUNQueue(fd int, s TUNSpec) (*TUNQueue, error) {
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	q := &TUNQueue{name: "tun " + s.Name, offload: s.Offload, fd: fd, bell: bell, bulk: bulk{bulkNice: s.BulkNice}}
	if s.Offload {
		if q.uso, err = setOffload(fd); err != nil {
			unix.Close(bell)
			return nil, fmt.Errorf("set offload: %w", err)
		}
	}
	q.wait = [2]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(bell), Events: unix.POLLIN}}
	return q, nil
}

// setOffload has super-packets cross the device, of UDP, too, if the kernel knows such (uso).
func setOffload(fd int) (uso bool, err error) {
	const tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso|unix.TUN_F_USO4|unix.TUN_F_USO6)
	if !errors.Is(err, unix.EINVAL) {
		return err == nil, err
	}
	// USO is younger (Linux 6.2); without it UDP comes in single packets.
	return false, unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso)
}

// USO tells whether super-packets of UDP may be written, and may be read.
func (q *TUNQueue) USO() bool { return q.uso }

// use keeps the descriptors open until inUse.RUnlock.
func (q *TUNQueue) use(op string) error {
	q.inUse.RLock()
	if q.state.Load() == queueClosed {
		q.inUse.RUnlock()
		return q.fail(op, os.ErrClosed)
	}
	return nil
}

func (q *TUNQueue) fail(op string, err error) error {
	return &os.PathError{Op: op, Path: q.name, Err: err}
}

// Park makes the queue's Read return os.ErrDeadlineExceeded, now and later,
// until Unpark; packets wait in the device meanwhile.
func (q *TUNQueue) Park() error {
	if err := q.use("park"); err != nil {
		return err
	}
	defer q.inUse.RUnlock()
	q.parking.Lock()
	defer q.parking.Unlock()
	q.state.CompareAndSwap(queueOpen, queueParked)
	return q.ring()
}

// Unpark undoes Park.
func (q *TUNQueue) Unpark() error {
	if err := q.use("unpark"); err != nil {
		return err
	}
	defer q.inUse.RUnlock()
	q.parking.Lock()
	defer q.parking.Unlock()
	var count [8]byte
	if _, err := unix.Read(q.bell, count[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		return q.fail("unpark", err)
	}
	q.state.CompareAndSwap(queueParked, queueOpen)
	return nil
}

// ring wakes Read.
func (q *TUNQueue) ring() error {
	_, err := unix.Write(q.bell, binary.NativeEndian.AppendUint64(nil, 1))
	return err
}

// close ends Read and closes the queue.
func (q *TUNQueue) close() error {
	if q.state.Swap(queueClosed) == queueClosed {
		return nil
	}
	err := q.ring()
	q.inUse.Lock()
	defer q.inUse.Unlock()
	return errors.Join(err, unix.Close(q.fd), unix.Close(q.bell))
}

// duplicate returns another descriptor of the queue, above the standard ones,
// that a program which is executed inherits.
func (q *TUNQueue) duplicate() (int, error) {
	if err := q.use("duplicate"); err != nil {
		return -1, err
	}
	defer q.inUse.RUnlock()
	return unix.FcntlInt(uintptr(q.fd), unix.F_DUPFD, 3)
}

// ErrEmpty is that no packet waits.
var ErrEmpty = errors.New("no packet waits")

// Read reads one packet to buf[off:], using the VNetHeaderLen bytes before it,
// and returns its length; it waits for one. With a BulkNice it may lock the calling
// goroutine to its thread for good; the thread ends with it.
func (q *TUNQueue) Read(buf []byte, off int) (int, VNetHeader, error) {
	for {
		n, h, err := q.ReadNow(buf, off)
		if err != ErrEmpty {
			return n, h, err
		}
		if err := q.Wait(); err != nil {
			return 0, h, err
		}
	}
}

// ReadNow is Read, but returns ErrEmpty, as it is, instead of waiting.
func (q *TUNQueue) ReadNow(buf []byte, off int) (int, VNetHeader, error) {
	var h VNetHeader
	if !q.offload {
		n, err := q.read(buf[off:])
		return n, h, err
	}
	n, err := q.read(buf[off-VNetHeaderLen:])
	if err != nil {
		return 0, h, err
	}
	if n < VNetHeaderLen {
		return 0, h, fmt.Errorf("read %s: %d bytes, less than a virtio-net header", q.name, n)
	}
	v := buf[off-VNetHeaderLen : off]
	h = VNetHeader{
		NeedsCsum: v[0]&1 != 0, DataValid: v[0]&2 != 0, GSOType: v[1],
		HdrLen: binary.NativeEndian.Uint16(v[2:]), GSOSize: binary.NativeEndian.Uint16(v[4:]),
		CsumStart: binary.NativeEndian.Uint16(v[6:]), CsumOffset: binary.NativeEndian.Uint16(v[8:]),
	}
	return n - VNetHeaderLen, h, nil
}

func (q *TUNQueue) read(buf []byte) (int, error) {
	if err := q.use("read"); err != nil {
		return 0, err
	}
	defer q.inUse.RUnlock()
	switch q.state.Load() {
	case queueParked:
		q.leave()
		return 0, q.fail("read", os.ErrDeadlineExceeded)
	case queueClosed:
		return 0, q.fail("read", os.ErrClosed)
	}
	given := q.given()
	for {
		n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(q.fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		switch e {
		case 0:
			q.busy = true
			q.weigh(int(n))
			if q.offload && n > VNetHeaderLen && buf[1] != 0 { // gso_type
				q.took(int(n) - VNetHeaderLen)
			}
			return int(n), nil
		case unix.EAGAIN:
			q.empty(given)
			return 0, ErrEmpty
		case unix.EINTR:
		default:
			return 0, q.fail("read", e)
		}
	}
}

// Wait returns when ReadNow may have something else to say than ErrEmpty. It may
// return early. It is for the goroutine that reads.
func (q *TUNQueue) Wait() error {
	if err := q.use("wait"); err != nil {
		return err
	}
	defer q.inUse.RUnlock()
	if err := q.await(); err != nil {
		return q.fail("wait for", err)
	}
	return nil
}

// await returns when there is a packet, the bell has rung, or there is reason to
// look again.
func (q *TUNQueue) await() error {
	if !q.busy {
		if _, err := unix.Ppoll(q.wait[:], nil, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		return nil
	}
	limit := unix.NsecToTimespec(patience)
	n, _, e := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&q.wait)), uintptr(len(q.wait)), uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	switch {
	case e == unix.EINTR:
		// The runtime wants something of this thread, and does not get it inside a
		// system call that it knows nothing of.
		runtime.Gosched()
	case e != 0:
		return e
	case n == 0:
		q.busy = false
	}
	return nil
}

// Write writes the packet buf[off:off+n], overwriting the VNetHeaderLen bytes
// before it.
func (q *TUNQueue) Write(buf []byte, off, n int, h VNetHeader) error {
	if !q.offload {
		return q.write(buf[off : off+n])
	}
	v := buf[off-VNetHeaderLen : off]
	v[0], v[1] = 0, h.GSOType
	if h.NeedsCsum {
		v[0] = 1
	}
	binary.NativeEndian.PutUint16(v[2:], h.HdrLen)
	binary.NativeEndian.PutUint16(v[4:], h.GSOSize)
	binary.NativeEndian.PutUint16(v[6:], h.CsumStart)
	binary.NativeEndian.PutUint16(v[8:], h.CsumOffset)
	return q.write(buf[off-VNetHeaderLen : off+n])
}

func (q *TUNQueue) write(buf []byte) error {
	if err := q.use("write"); err != nil {
		return err
	}
	defer q.inUse.RUnlock()
	for {
		_, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(q.fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		switch e {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return q.fail("write", e)
		}
	}
}
