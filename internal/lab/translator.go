package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"widecloud/internal/map646"
)

// Where a translator's things are inside of its node.
const (
	mappings      = "/etc/map646/mappings.conf"
	map646Conf    = "/etc/map646.toml"
	map646Control = "/run/map646.sock"
)

// translatorConfig is map646's configuration as docs/map646.md has several nodes
// of the same addresses: each with its own addresses in the common prefixes.
type translatorConfig struct {
	release string // of map646; "": the one that is tested
	number  int    // from 1; its own addresses hang on it
	mtu     int
	alone   []netip.Addr // more addresses, which a node that drains withdraws
	extra   []string     // more addresses for the device
	inside  []netip.Prefix
	devices []string // of the fast path; none: the full path takes all
	ways    []map646.Way
	dns64   bool
}

func (c translatorConfig) text() string {
	var b strings.Builder
	addresses := []string{
		fmt.Sprintf("203.0.113.%d/24", 254-c.number), fmt.Sprintf("2001:db8:f::fff%d/64", c.number), fmt.Sprintf("2001:db8:64::%d/96", c.number),
	}
	for _, a := range c.alone {
		addresses = append(addresses, netip.PrefixFrom(a, a.BitLen()).String())
	}
	list := func(l []string) string {
		var q []string
		for _, s := range l {
			q = append(q, fmt.Sprintf("%q", s))
		}
		return "[" + strings.Join(q, ", ") + "]"
	}
	fmt.Fprintf(&b, "pref64 = %q\ncontrol = %q\nmappings_file = %q\n", pref64, map646Control, mappings)
	// What is too big for the way to the machines is refused before its translation.
	fmt.Fprintf(&b, "mtu6 = %d\n", c.mtu)
	if len(c.inside) > 0 {
		var l []string
		for _, p := range c.inside {
			l = append(l, p.String())
		}
		fmt.Fprintf(&b, "inside = %s\n", list(l))
	}
	fmt.Fprintf(&b, "[tun]\nmtu = %d\naddresses = %s\n", c.mtu, list(append(addresses, c.extra...)))
	if len(c.devices) > 0 {
		fmt.Fprintf(&b, "[fast]\ndevices = %s\n", list(c.devices))
	}
	for _, w := range c.ways {
		fmt.Fprintf(&b, "[[health.route]]\nto = %q\ndevices = %s\n", w.To, list(w.Devices))
	}
	if c.dns64 {
		fmt.Fprintf(&b, "[dns64]\nlisten = %s\nupstream = %s\nallow_from = %s\n", list([]string{netip.AddrPortFrom(dns64Addr, 53).String()}),
			list([]string{netip.AddrPortFrom(namesAddr6, 53).String()}), list([]string{dcPrefix.String()}))
	}
	return b.String()
}

// startMap646 writes the configuration and runs map646 on a node.
func startMap646(n *Node, c translatorConfig, mapped []byte) error {
	if err := errors.Join(n.WriteFile(map646Conf, []byte(c.text())), n.WriteFile(mappings, mapped)); err != nil {
		return err
	}
	_, err := n.Start(ProcessOptions{
		Name: map646Process, Boot: true, Args: []string{program(c.release, "map646"), "run", "-c", map646Conf},
		Ready: func(ctx context.Context) error {
			var s map646.Stats
			return map646.Control(ctx, n.Path(map646Control), "stats", &s)
		},
	})
	return err
}

// startTranslator runs map646 on a site's gateway.
func (f *Federation) startTranslator(s *fedSite) error {
	c := translatorConfig{release: s.stmt.Agents, number: s.number, mtu: 1430, alone: []netip.Addr{anycastVTEP}}
	if s.stmt.Path == "fast" {
		c.devices = []string{"eth0", "vx-*"}
	}
	return startMap646(s.gw, c, []byte("# none yet\n"))
}

// mappingLines are a table in map646's mappings file.
func mappingLines(services map[netip.Addr]netip.Addr) []byte {
	var b bytes.Buffer
	for _, a := range sortedAddrs(services) {
		kind := "map-static"
		if a.Is6() {
			kind = "map66-static"
		}
		fmt.Fprintf(&b, "%s %s %s\n", kind, a, services[a])
	}
	return b.Bytes()
}

// writeDisk writes a file of a node that may be off.
func (n *Node) writeDisk(path string, data []byte) error {
	if n.On() {
		return n.WriteFile(path, data)
	}
	outside := filepath.Join(n.Disk(), path)
	if err := os.MkdirAll(filepath.Dir(outside), 0o755); err != nil {
		return fmt.Errorf("write %s on %s: %w", path, n.name, err)
	}
	if err := os.WriteFile(outside, data, 0o644); err != nil {
		return fmt.Errorf("write %s on %s: %w", path, n.name, err)
	}
	return nil
}
