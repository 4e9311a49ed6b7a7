package machine_test

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/internal/lab/machine"
)

// TestDoor: a door leads to a node's loopback, is seen by other programs, and is gone with the lab.
func TestDoor(t *testing.T) {
	l := open(t)
	n, err := l.AddNode(machine.NodeOptions{Name: "a"})
	must(t, err)
	var ln net.Listener
	must(t, n.Do(func() (err error) { ln, err = net.Listen("tcp", "[::1]:7646"); return err }))
	t.Cleanup(func() { ln.Close() })
	came := make(chan struct{}, 1)
	go func() {
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if n == 3 {
				came <- struct{}{}
			}
			go func() { // it says what it has heard, once all has come
				defer c.Close()
				text, _ := io.ReadAll(c)
				c.Write(append([]byte("heard "), text...))
			}()
		}
	}()

	at := netip.MustParseAddrPort("127.0.99.1:0")
	first, err := l.AddDoor(machine.Door{Name: "page of a", Address: at, Secret: "s1"}, n, "[::1]:7646")
	must(t, err)
	// Where something is already, it is at another port.
	second, err := l.AddDoor(machine.Door{Name: "again", Address: first.Address}, n, "[::1]:7646")
	must(t, err)
	if second.Address.Addr() != first.Address.Addr() || second.Address.Port() == first.Address.Port() {
		t.Errorf("the second door is at %v, the first at %v", second.Address, first.Address)
	}
	for _, d := range []machine.Door{first, second} {
		c, err := net.Dial("tcp", d.Address.String())
		must(t, err)
		_, err = c.Write([]byte("hello"))
		must(t, err, c.(*net.TCPConn).CloseWrite())
		text, err := io.ReadAll(c)
		must(t, err, c.Close())
		if string(text) != "heard hello" {
			t.Errorf("%s answers %q", d.Name, text)
		}
	}
	p, err := machine.Look("", scope.Name)
	must(t, err)
	if diff := cmp.Diff([]machine.Door{first, second}, p.Doors, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("doors (-want +got):\n%s", diff)
	}

	open, err := net.Dial("tcp", first.Address.String()) // one that stays, at both ends
	must(t, err)
	defer open.Close()
	<-came
	must(t, l.Close())
	if _, err := net.Dial("tcp", first.Address.String()); err == nil {
		t.Error("the door is open after the lab's end")
	}
}
