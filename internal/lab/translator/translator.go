// Package translator runs map646 on machines of the lab: those of a data centre and
// the gateways of sites.
//
// Invariants:
//   - Several translators of the same prefixes have different own addresses there,
//     and otherwise the same configuration.
package translator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/stage"
	"widecloud/internal/map646"
)

// Where a translator's things are inside of its node.
const (
	Mappings = "/etc/map646/mappings.conf"
	Socket   = "/run/map646.sock"
	conf     = "/etc/map646/map646.toml"
	// Metrics is where its /metrics are asked for, on the machine itself.
	Metrics = "127.0.0.1:9646"
)

// Process is the name of map646 among a machine's processes.
const Process = "map646"

// MaxNumber is how many translators can have own addresses in the same prefixes.
const MaxNumber = 13

// Config is map646's configuration as docs/map646.md has several nodes of the same
// addresses: each with its own addresses in the common prefixes.
type Config struct {
	Program  string // path inside of the machine
	Services *stage.Services
	Number   int // from 1 to MaxNumber; its own addresses hang on it
	MTU      int
	Alone    []netip.Addr // more addresses, which a node that drains withdraws
	Extra    []string     // more addresses for the device
	Inside   []netip.Prefix
	Devices  []string // of the fast path; none: the full path takes all
	Ways     []map646.Way
	DNS64    *DNS64
}

// DNS64 is what a translator answers names by.
type DNS64 struct {
	Listen, Upstream netip.AddrPort
	AllowFrom        netip.Prefix
}

// own are the translator's own addresses: the last of the prefixes.
func (c Config) own() []netip.Prefix {
	four := c.Services.V4.Addr().As4()
	four[3] = byte(254 - c.Number)
	six := c.Services.V6.Addr().As16()
	six[14], six[15] = 0xff, 0xf0+byte(c.Number)
	inside := c.Services.Pref64.Addr().As16()
	inside[15] = byte(c.Number)
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4(four), 24), netip.PrefixFrom(netip.AddrFrom16(six), 64), netip.PrefixFrom(netip.AddrFrom16(inside), 96),
	}
}

func (c Config) text() string {
	var b strings.Builder
	var addresses []string
	for _, p := range c.own() {
		addresses = append(addresses, p.String())
	}
	for _, a := range c.Alone {
		addresses = append(addresses, netip.PrefixFrom(a, a.BitLen()).String())
	}
	list := func(l []string) string {
		var q []string
		for _, s := range l {
			q = append(q, fmt.Sprintf("%q", s))
		}
		return "[" + strings.Join(q, ", ") + "]"
	}
	fmt.Fprintf(&b, "pref64 = %q\ncontrol = %q\nmappings_file = %q\n", c.Services.Pref64, Socket, Mappings)
	// What is too big for the way to the machines is refused before its translation.
	fmt.Fprintf(&b, "mtu6 = %d\n", c.MTU)
	if len(c.Inside) > 0 {
		var l []string
		for _, p := range c.Inside {
			l = append(l, p.String())
		}
		fmt.Fprintf(&b, "inside = %s\n", list(l))
	}
	fmt.Fprintf(&b, "[metrics]\nlisten = %q\n", Metrics)
	fmt.Fprintf(&b, "[tun]\nmtu = %d\naddresses = %s\n", c.MTU, list(append(addresses, c.Extra...)))
	if len(c.Devices) > 0 {
		fmt.Fprintf(&b, "[fast]\ndevices = %s\n", list(c.Devices))
	}
	for _, w := range c.Ways {
		fmt.Fprintf(&b, "[[health.route]]\nto = %q\ndevices = %s\n", w.To, list(w.Devices))
	}
	if d := c.DNS64; d != nil {
		fmt.Fprintf(&b, "[dns64]\nlisten = %s\nupstream = %s\nallow_from = %s\n", list([]string{d.Listen.String()}),
			list([]string{d.Upstream.String()}), list([]string{d.AllowFrom.String()}))
	}
	return b.String()
}

// unit is map646's service.
const unit = "map646.service"

// startTime is how long a service may take to start.
const startTime = time.Minute

// Start writes the configuration and the table, and runs map646 on a machine; on one
// with systemd by our unit.
func Start(n *machine.Node, c Config, table []byte) error {
	if err := errors.Join(n.WriteFile(conf, []byte(c.text())), n.WriteFile(Mappings, table)); err != nil {
		return err
	}
	ready := func(ctx context.Context) error {
		var s map646.Stats
		return map646.Control(ctx, n.Path(Socket), "stats", &s)
	}
	if n.HasSystem() {
		ctx, cancel := context.WithTimeout(context.Background(), startTime)
		defer cancel()
		return errors.Join(stage.StartUnit(ctx, n, Process, unit, c.Program), stage.Until(ctx, startTime, ready))
	}
	_, err := n.Start(machine.ProcessOptions{Name: Process, Boot: true, Args: []string{c.Program, "run", "-c", conf}, Ready: ready})
	return err
}

// Lines are a table in map646's mappings file.
func Lines(services map[netip.Addr]netip.Addr) []byte {
	var b bytes.Buffer
	for _, a := range slices.SortedFunc(maps.Keys(services), netip.Addr.Compare) {
		kind := "map-static"
		if a.Is6() {
			kind = "map66-static"
		}
		fmt.Fprintf(&b, "%s %s %s\n", kind, a, services[a])
	}
	return b.Bytes()
}

// WriteTable writes the mappings file of a machine that may be off.
func WriteTable(n *machine.Node, data []byte) error {
	if n.On() {
		return n.WriteFile(Mappings, data)
	}
	outside := filepath.Join(n.Disk(), Mappings)
	if err := os.MkdirAll(filepath.Dir(outside), 0o755); err != nil {
		return fmt.Errorf("write %s on %s: %w", Mappings, n.Name(), err)
	}
	if err := os.WriteFile(outside, data, 0o644); err != nil {
		return fmt.Errorf("write %s on %s: %w", Mappings, n.Name(), err)
	}
	return nil
}

// Run runs the map646 command on a translator, as its operator would.
func Run(ctx context.Context, n *machine.Node, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if slices.Contains([]string{"check", "doctor"}, args[0]) { // they look at the configuration, the others speak to the daemon
		args = append(slices.Clone(args), "-c", conf)
	}
	out, err := n.Command(ctx, stage.NodeBin+"/map646", args...).Output()
	if text := strings.TrimSpace(string(out)); err != nil && text != "" {
		err = fmt.Errorf("%w; it printed: %s", err, text)
	}
	return string(out), err
}

// Serves tells whether a translator's map646 runs.
func Serves(n *machine.Node) bool {
	p := n.Process(Process)
	if p == nil || !n.On() {
		return false
	}
	select {
	case <-p.Done():
		return false
	default:
		return true
	}
}

// Translated counts the packets that either path has translated.
func Translated(ctx context.Context, n *machine.Node) (full, fast uint64, err error) {
	var s map646.Stats
	if err := map646.Control(ctx, n.Path(Socket), "stats", &s); err != nil {
		return 0, 0, err
	}
	for _, way := range []string{"4to6", "6to4", "6to6"} {
		full += s.Packets[way]
		if s.Fast != nil {
			fast += s.Fast.Packets[way]
		}
	}
	return full, fast, nil
}

// What a node announces (docs/map646.md has the reasons): the translator's
// prefixes, in OSPFv2 as internal ones.
const OSPF = `interface map646
 ip ospf area 0
 ip ospf passive
exit
`
