package netio_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"widecloud/internal/netio"
)

// programs are the eBPF programs of a name. They are the machine's: other translators on it have theirs.
func programs(t *testing.T, name string) map[uint32]bool {
	t.Helper()
	all, err := netio.BPFPrograms()
	must(t, err)
	ids := map[uint32]bool{}
	for _, p := range all {
		if p.Name == name {
			ids[p.ID] = true
		}
	}
	return ids
}

// programCame returns a function that waits until the program that has come since before is gone; it fails if none has.
func programCame(t *testing.T, name string, before map[uint32]bool) (gone func()) {
	t.Helper()
	came := programs(t, name)
	maps.DeleteFunc(came, func(id uint32, _ bool) bool { return before[id] })
	if len(came) == 0 {
		t.Errorf("no program %q was loaded", name)
	}
	return func() {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			now := programs(t, name)
			for id := range came {
				if !now[id] {
					return
				}
			}
			if time.Now().After(deadline) {
				t.Fatalf("the program %q is there without the device", name)
			}
		}
	}
}

// A connection's packets of one direction come by one queue, and the fragments of
// a packet, too; connections are spread over the queues.
func TestTUNSteer(t *testing.T) {
	ns := newNS(t, "steer")
	before := programs(t, "steer")
	tun, err := ns.OpenTUN(netio.TUNSpec{Name: "t0", Queues: 4, Offload: true})
	must(t, err)
	defer tun.Close()
	if l := tun.Lacks(); l != nil {
		t.Errorf("lacks %v", l)
	}
	if out := ipOut(t, ns, "link", "show", "dev", "t0"); !strings.Contains(out, "qdisc noqueue") {
		t.Errorf("no noqueue:\n%s", out)
	}
	steerGone := programCame(t, "steer", before)
	must(t, tun.SetAddrs([]netip.Prefix{netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("2001:db8:f::1/64")}))
	type packet struct {
		queue int
		ports uint32 // of what has them
		ip    []byte
	}
	packets := make(chan packet, 100)
	for i, q := range tun.Queues() {
		go func() {
			buf := make([]byte, 70000)
			for {
				n, _, err := q.Read(buf, 64)
				if err != nil {
					return
				}
				p := packet{queue: i, ip: slices.Clone(buf[64 : 64+n])}
				header, proto := 20, p.ip[9]
				if p.ip[0]>>4 == 6 {
					header, proto = 40, p.ip[6]
				}
				if proto == syscall.IPPROTO_ICMPV6 {
					continue // the device's own router solicitations
				}
				p.ports = binary.BigEndian.Uint32(p.ip[header:])
				packets <- p
			}
		}()
	}
	next := func() packet {
		select {
		case p := <-packets:
			return p
		case <-time.After(5 * time.Second):
			t.Fatal("no packet")
			return packet{}
		}
	}
	for _, to := range []string{"203.0.113.77", "2001:db8:f::77"} {
		used := map[int]int{}
		for port := range 64 {
			c := dialUDP(t, ns, net.JoinHostPort(to, fmt.Sprint(1000+port)))
			queue := -1
			for range 3 {
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				p := next()
				if queue >= 0 && p.queue != queue {
					t.Fatalf("to %s: packets of %08x on queues %d and %d", to, p.ports, queue, p.queue)
				}
				queue = p.queue
			}
			used[queue]++
			// A large datagram goes in three fragments.
			if port < 8 {
				if _, err := c.Write(make([]byte, 4000)); err != nil {
					t.Fatal(err)
				}
				first := next()
				for range 2 {
					if p := next(); p.queue != first.queue {
						t.Fatalf("to %s: fragments of one datagram on queues %d and %d", to, first.queue, p.queue)
					}
				}
			}
			must(t, c.Close())
		}
		if len(used) != 4 {
			t.Errorf("64 connections to %s use queues %v of four", to, used)
		}
	}
	must(t, tun.Close())
	steerGone()
}

// A reader has priority while its queue carries large packets, and only its thread
// has it.
func TestTUNBulk(t *testing.T) {
	const bulk, size = -6, 30000
	ns := newNS(t, "bulk")
	tun, err := ns.OpenTUN(netio.TUNSpec{Name: "t0", MTU: 60000, BulkNice: bulk})
	must(t, err)
	defer tun.Close()
	if l := tun.Lacks(); l != nil {
		t.Errorf("lacks %v", l)
	}
	must(t, tun.SetAddrs([]netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}))
	c := dialUDP(t, ns, "203.0.113.77:9")
	defer c.Close()
	own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	must(t, err)
	q := tun.Queues()[0]
	raised := func() int { // threads of the process with the nice value
		n := 0
		tasks, err := filepath.Glob("/proc/self/task/*")
		must(t, err)
		for _, dir := range tasks {
			stat, err := os.ReadFile(dir + "/stat")
			if err != nil {
				continue // it has ended
			}
			// proc_pid_stat(5): the 19th field; the second is the name, in parentheses.
			fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
			if fields[19-3] == fmt.Sprint(bulk) {
				n++
			}
		}
		return n
	}
	// Each answer is the reader's nice value, in the system call's form, after a packet.
	nice, ended := make(chan int), make(chan error)
	read := func() {
		buf := make([]byte, 70000)
		for {
			n, _, err := q.Read(buf, 64)
			if err != nil {
				ended <- err
				return
			}
			if n != 28+size && n != 28+5 {
				continue // the device's own
			}
			v, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
			if err != nil {
				ended <- err
				return
			}
			nice <- v
		}
	}
	after := func(packets, size int) (last int) {
		for range packets {
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			last = <-nice
		}
		return last
	}
	for range 2 {
		go read()
		if got := after(50, 5); got != own {
			t.Errorf("with small packets: %d, not %d", got, own)
		}
		if got := after(50, size); got != 20-bulk {
			t.Errorf("with large packets: %d, not %d", got, 20-bulk)
		}
		if n := raised(); n != 1 {
			t.Errorf("%d threads have the priority", n)
		}
		if got := after(50, 5); got != own {
			t.Errorf("with small packets again: %d, not %d", got, own)
		}
		// Another reader comes while there is bulk.
		after(50, size)
		must(t, q.Park())
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("parked: %v", err)
		}
		if n := raised(); n != 0 {
			t.Errorf("%d threads have the priority and read nothing", n)
		}
		must(t, q.Unpark())
	}
}

// Of super-packets no more wait in a queue than they may, and small packets do not
// count; it is found out again how many wait after packets that had no room.
func TestTUNBacklog(t *testing.T) {
	for _, queues := range []int{1, 2} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) { testTUNBacklog(t, queues) })
	}
}

func testTUNBacklog(t *testing.T, queues int) {
	const segment, segments = 1400, 40
	const length = 28 + segment*segments
	ns := newNS(t, "backlog")
	before := programs(t, "limit")
	tun, err := ns.OpenTUN(netio.TUNSpec{Name: "t0", Queues: queues, Offload: true, BulkBacklog: 2*length - 1})
	must(t, err)
	defer tun.Close()
	if l := tun.Lacks(); l != nil {
		t.Errorf("lacks %v", l)
	}
	must(t, tun.SetAddrs([]netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}))
	for _, q := range tun.Queues() {
		must(t, q.Park())
	}
	// Enough connections that each queue has one.
	var large []net.Conn
	for range 8 * queues {
		c := dialUDP(t, ns, "203.0.113.77:9")
		defer c.Close()
		raw, err := c.(*net.UDPConn).SyscallConn()
		must(t, err, raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment)
		}), err)
		large = append(large, c)
	}
	small := dialUDP(t, ns, "203.0.113.77:9")
	defer small.Close()
	send := func(c net.Conn, n, size int) {
		for range n {
			c.Write(make([]byte, size)) // an error is how a dropped packet shows
		}
	}
	sendLarge := func() {
		for _, c := range large {
			send(c, 5, segment*segments)
		}
	}
	// read empties the queues and returns how many packets of each kind there were.
	read := func() (large []int, small int) {
		for i, q := range tun.Queues() {
			large = append(large, 0)
			must(t, q.Unpark())
			// The reader finds the queue empty before it is parked again.
			timer := time.AfterFunc(50*time.Millisecond, func() { q.Park() })
			buf := make([]byte, 70000)
			for {
				n, h, err := q.Read(buf, 64)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					break
				}
				must(t, err)
				switch {
				case n == length && h.GSOType != 0:
					large[i]++
				case n == 28+5:
					small++
				}
			}
			timer.Stop()
		}
		return large, small
	}
	read() // the device's own
	for range 2 {
		send(small, 100, 5)
		sendLarge()
		send(small, 100, 5)
		if l, s := read(); !slices.Equal(l, []int{2, 2}[:queues]) || s != 200 {
			t.Errorf("%v super-packets and %d small packets waited, want two in each queue, and 200", l, s)
		}
		if queues > 1 {
			continue
		}
		// What the ring has no room for was counted before.
		send(small, 600, 5)
		sendLarge()
		// (A ring frees its slots several at a time.)
		if l, s := read(); l[0] != 0 || s < 480 || s > 500 {
			t.Errorf("%v super-packets and %d small packets waited, want none, and 480 to 500", l, s)
		}
	}
	limitGone := programCame(t, "limit", before)
	// Whoever takes the device over without a limit does not keep one that nobody
	// tells what is read.
	fds, err := tun.Descriptors()
	must(t, err, tun.Close())
	tun, err = ns.AdoptTUN(netio.TUNSpec{Name: "t0", Offload: true}, fds)
	must(t, err)
	defer tun.Close()
	for _, q := range tun.Queues() {
		must(t, q.Park())
	}
	read()
	sendLarge()
	if l, _ := read(); l[0]+l[len(l)-1]*(queues-1) != 5*len(large) {
		t.Errorf("adopted without a limit: %v super-packets waited, want %d in all", l, 5*len(large))
	}
	must(t, tun.Close())
	limitGone()
}
