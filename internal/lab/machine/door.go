package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"
)

// Door leads from this machine to what a node has on its own loopback: a person's browser is in none of the lab's
// namespaces.
type Door struct {
	Name    string
	Address netip.AddrPort // on this machine's loopback
	Secret  string         // what is asked for behind it
}

// doorsFile is where a lab notes its doors, one a line, for other programs of the same user.
func doorsFile(dir string) string { return filepath.Join(dir, "doors") }

// AddDoor opens a door to an address of the node, until the lab is closed. It is at d.Address, or if something is there
// already, at another port.
func (l *Lab) AddDoor(d Door, n *Node, inside string) (Door, error) {
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(d.Address))
	if err != nil {
		ln, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.Address.Addr(), 0)))
	}
	if err != nil {
		return Door{}, fmt.Errorf("open a door to %s: %w", d.Name, err)
	}
	d.Address = ln.Addr().(*net.TCPAddr).AddrPort()
	line, err := json.Marshal(d)
	if err == nil {
		err = appendLine(doorsFile(l.dir), line, 0o600)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		err = errors.Join(err, errors.New("lab is closed"))
	}
	if err != nil {
		return Door{}, fmt.Errorf("open a door to %s: %w", d.Name, errors.Join(err, ln.Close()))
	}
	l.doors = append(l.doors, ln)
	l.visits.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return // the lab is closed
			}
			l.visits.Go(func() { n.relay(c, inside) })
		}
	})
	return d, nil
}

// relay joins a connection with one to an address of the node, until either ends, or the lab is closed.
func (n *Node) relay(outer *net.TCPConn, address string) {
	defer outer.Close()
	var c net.Conn
	err := n.Do(func() (err error) {
		ctx, cancel := context.WithTimeout(n.lab.open, 2*time.Second)
		defer cancel()
		c, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return // who came sees it
	}
	defer c.Close()
	inner := c.(*net.TCPConn)
	defer context.AfterFunc(n.lab.open, func() { outer.Close(); inner.Close() })()
	var both sync.WaitGroup
	pass := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			outer.Close()
			inner.Close()
			return
		}
		to.CloseWrite()
	}
	both.Go(func() { pass(inner, outer) })
	both.Go(func() { pass(outer, inner) })
	both.Wait()
}
