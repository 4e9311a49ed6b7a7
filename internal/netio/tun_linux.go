package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// VNetHeaderLen is the length, in bytes, of the virtio-net header (virtio 1.2
// §5.1.6) that precedes each packet of a TUN with offload.
const VNetHeaderLen = 10

// VNetHeader is that header. The zero value says nothing about the packet. DataValid
// (VIRTIO_NET_HDR_F_DATA_VALID) is what a device says; Write does not.
type VNetHeader struct {
	NeedsCsum, DataValid  bool
	GSOType               uint8
	HdrLen, GSOSize       uint16
	CsumStart, CsumOffset uint16
}

// TUNSpec describes a TUN device.
type TUNSpec struct {
	Name string
	MTU  int // bytes; 0: 1500
	// Queues is how many readers share the device; the kernel keeps a flow on
	// one queue, each of its directions by itself. 0: 1.
	Queues int
	// Offload lets super-packets and unfinished checksums cross the device, each
	// with a virtio-net header.
	Offload bool
	// BulkNice is the nice value, -20 to -1, of a reader's thread while its queue
	// carries super-packets, if the thread's own is not below it. 0: no other.
	BulkNice int
	// BulkBacklog is how many bytes of super-packets may wait in a queue; the device
	// drops those that come when there are more. 0: as many as it has room for
	// (500 packets).
	BulkBacklog int
}

// TUN is an open TUN device. It goes, with its addresses and routes, when all
// its queues are closed, so a daemon that is killed leaves none behind.
type TUN struct {
	spec   TUNSpec
	ns     *NS
	queues []*TUNQueue
	lacks  []error // see Lacks
	shared []byte  // what the filter program shares: the queues' backlogs
	// The device holds its programs by itself. They are kept open all the same, so that
	// everybody can see whose they are (proc_pid_fdinfo(5)).
	programs []*ebpf.Program
}

// OpenTUN makes the device and sets it up. fs.ErrExist if there is a device of
// that name.
func (n *NS) OpenTUN(s TUNSpec) (*TUN, error) {
	s.Queues = max(s.Queues, 1)
	if s.MTU == 0 {
		s.MTU = 1500
	}
	t := &TUN{spec: s, ns: n}
	if s.Name == "" || len(s.Name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("open tun %q: name must have 1 to %d bytes", s.Name, unix.IFNAMSIZ-1)
	}
	if _, err := n.Link(s.Name); err == nil {
		return nil, fmt.Errorf("open tun %s: %w", s.Name, fs.ErrExist)
	}
	err := n.Do(func() error {
		for range s.Queues {
			q, err := openTUNQueue(s)
			if err != nil {
				return err
			}
			t.queues = append(t.queues, q)
		}
		return nil
	})
	if err == nil {
		err = n.SetMTU(s.Name, s.MTU)
	}
	if err == nil {
		// There is nothing to schedule before a device that never says wait: it
		// drops what its ring has no room for, with a queue before it or without.
		err = n.setNoqueue(s.Name)
	}
	if err == nil {
		err = n.SetUp(s.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("open tun %s: %w", s.Name, errors.Join(err, t.Close()))
	}
	t.tune()
	return t, nil
}

func openTUNQueue(s TUNSpec) (*TUNQueue, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if s.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	if s.Offload {
		flags |= unix.IFF_VNET_HDR
	}
	ifr, err := unix.NewIfreq(s.Name)
	if err == nil {
		ifr.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	var q *TUNQueue
	if err == nil {
		q, err = newTUNQueue(fd, s)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return q, nil
}

// AdoptTUN takes over the queues of a device that another process, or this one
// before it replaced its program, has made: fds are its descriptors, one for
// each queue. Nothing about the device is changed.
func (n *NS) AdoptTUN(s TUNSpec, fds []int) (*TUN, error) {
	s.Queues = len(fds)
	t := &TUN{spec: s, ns: n}
	ok := false
	defer func() {
		if !ok { // the descriptors stay the caller's
			for _, q := range t.queues {
				unix.Close(q.bell)
			}
		}
	}()
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		ifr, err := unix.NewIfreq("")
		if err == nil {
			err = unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr)
		}
		if err == nil && ifr.Name() != s.Name {
			err = fmt.Errorf("descriptor %d belongs to %q", fd, ifr.Name())
		}
		if err == nil && (ifr.Uint16()&unix.IFF_VNET_HDR != 0) != s.Offload {
			err = fmt.Errorf("descriptor %d was opened with another offload", fd)
		}
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		var q *TUNQueue
		if err == nil {
			q, err = newTUNQueue(fd, s)
		}
		if err != nil {
			return nil, fmt.Errorf("adopt tun %s: %w", s.Name, err)
		}
		t.queues = append(t.queues, q)
	}
	ok = true
	t.tune()
	return t, nil
}

// tune makes the device cheaper where it may; it works without.
func (t *TUN) tune() {
	if len(t.queues) > 1 {
		if err := t.steer(); err != nil {
			t.lacks = append(t.lacks, fmt.Errorf("the kernel spreads packets over the queues of %s, which costs more: %w", t.spec.Name, err))
		}
	}
	// What an adopted device has would count what no reader of ours takes off.
	t.unlimit()
	if t.spec.Offload && t.spec.BulkBacklog > 0 {
		if err := t.limit(t.spec.BulkBacklog); err != nil {
			t.lacks = append(t.lacks, fmt.Errorf("as much bulk waits in %s as it has room for, which costs more: %w", t.spec.Name, err))
		}
	}
	if err := mayPrefer(t.spec.BulkNice); err != nil {
		t.lacks = append(t.lacks, fmt.Errorf("readers of %s get no priority for bulk: %w", t.spec.Name, err))
		for _, q := range t.queues {
			q.bulkNice = 0
		}
	}
}

// Lacks tells what the device has to do without, because the process may not have
// it (CAP_BPF, CAP_SYS_NICE) or the kernel cannot do it. Each costs CPU time, no more.
func (t *TUN) Lacks() []error { return t.lacks }

// Descriptors returns duplicates of the queues' descriptors that a program which
// is executed inherits. They are the caller's to close; while one is open, the
// device stays.
func (t *TUN) Descriptors() ([]int, error) {
	var out []int
	for _, q := range t.queues {
		d, err := q.duplicate()
		if err != nil {
			for _, d := range out {
				unix.Close(d)
			}
			return nil, fmt.Errorf("duplicate descriptors of %s: %w", t.spec.Name, err)
		}
		out = append(out, d)
	}
	return out, nil
}

// Spec returns what the device was made of.
func (t *TUN) Spec() TUNSpec { return t.spec }

// Queues returns the device's queues.
func (t *TUN) Queues() []*TUNQueue { return t.queues }

// Close closes all queues, and with them the device. Reads return os.ErrClosed.
func (t *TUN) Close() error {
	var errs []error
	for _, q := range t.queues {
		errs = append(errs, q.close())
	}
	for _, p := range t.programs {
		errs = append(errs, p.Close())
	}
	t.programs = nil
	if t.shared != nil {
		errs = append(errs, unix.Munmap(t.shared)) // no Read is left, nor comes one
		t.shared = nil
	}
	return errors.Join(errs...)
}

// SetAddrs gives the device these addresses and takes all others but link-local
// ones from it. New ones come before old ones go, but for an address that only
// gets another prefix length: the kernel does not hold one of IPv6 twice, and
// FRR's ospfd, which knows an interface by its address alone, takes the end of
// the old length for that of both. Of two lengths in want, the first counts.
//
// A device that has had an IPv4 address keeps a link-local one, for with the last
// one the kernel would take its IPv4 routes away.
func (t *TUN) SetAddrs(want []netip.Prefix) error {
	have, err := t.ns.Addrs(t.spec.Name)
	if err != nil {
		return err
	}
	is4 := func(p netip.Prefix) bool { return p.Addr().Is4() }
	if slices.ContainsFunc(want, is4) || slices.ContainsFunc(have, is4) {
		want = append(slices.Clone(want), linkLocal4)
	}
	for i, p := range want {
		same := func(h netip.Prefix) bool { return h.Addr() == p.Addr() }
		if slices.Contains(have, p) || slices.ContainsFunc(want[:i], same) {
			continue
		}
		if i := slices.IndexFunc(have, same); i >= 0 {
			if err := t.ns.DelAddr(t.spec.Name, have[i]); err != nil {
				return err
			}
			have = slices.Delete(have, i, i+1)
		}
		if err := t.ns.AddAddr(t.spec.Name, p); err != nil {
			return err
		}
	}
	for _, p := range have {
		if !slices.Contains(want, p) && !p.Addr().IsLinkLocalUnicast() {
			if err := t.ns.DelAddr(t.spec.Name, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// linkLocal4 is for this link alone (RFC 3927 §2.7); neither OSPF nor BGP of FRR
// tells others of it.
var linkLocal4 = netip.MustParsePrefix("169.254.6.46/32")

// NS returns the device's namespace.
func (t *TUN) NS() *NS { return t.ns }
