package map646

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	pathpkg "path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"widecloud/internal/map646/dns64"
	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// ErrConfig is wrapped by all errors about a configuration's content, which
// read `FILE:LINE: FIELD: what is wrong`.
var ErrConfig = errors.New("bad configuration")

// Config is a valid configuration.
type Config struct {
	// Translation is what the table is made of.
	Translation siit.Spec
	// TUN is the device, Addresses are its addresses.
	TUN       netio.TUNSpec
	Addresses []netip.Prefix
	// Table and Priority are the kernel's numbers for source policy routing of
	// 1:1 IPv6 mappings; the detour of ICMPv6 (netio.LinkPolicy) has those around
	// them. WholeInside leads the `inside` prefixes there as a whole,
	// not mapped addresses one by one.
	Table, Priority int
	WholeInside     bool
	// ICMPRate is how many ICMP errors a queue may send in a second.
	ICMPRate int
	// Control is the control socket's path.
	Control string
	// Linger is how long, after the device has gone, packets for it or from mapped
	// machines still go nowhere, while the routers turn to another node. (ospf6d may
	// take 5 s to say that the prefixes have gone.)
	Linger time.Duration
	// Ways are the routes without which the node withdraws its prefixes.
	Ways []Way
	// Fast is the way through the kernel.
	Fast FastConfig
	// MetricsListen is where Prometheus asks, as HOST:PORT; "": nowhere.
	// Busiest is how many mappings have series of their own.
	MetricsListen string
	Busiest       int
	// DNS64 is nil without a [dns64] section.
	DNS64 *dns64.Options
	// Refused are the lines of the mappings file that are left out.
	Refused []RefusedLine

	table *siit.Table
	// taken are addresses that cannot be mapped, and why.
	taken map[netip.Addr]string
}

// FastConfig says which devices' packets the kernel translates by itself.
type FastConfig struct {
	// Devices are patterns (path.Match) of names.
	Devices []string
	// XDP are those among them that are translated in the driver, if it can.
	XDP []string
	// Pin is a directory on a bpffs, which keeps the fast path when the daemon dies.
	// "": none.
	Pin string
	// MaxMappings and MaxPrefixes are the room in the kernel's tables. What finds
	// none takes the full path. MaxMappings 0: see room.
	MaxMappings, MaxPrefixes int
	// Clsact has it attached by clsact filters also where the kernel has tcx.
	Clsact bool
	// Forward is who sends on what is translated: "kernel", "direct" (the program,
	// past netfilter and policy rules), or "auto": the program while there is nothing
	// that the kernel would have to look at.
	Forward string
	// Keep leaves the fast path at work when the daemon is told to stop.
	Keep bool
}

// place is a line of a file.
type place struct {
	file string
	line int
}

// origin is where what does not stand in the TOML file itself comes from.
type origin struct {
	pref64 place
	// Of the mappings behind the first ones, which are in the TOML file.
	map4, map66     []place
	first4, first66 int
	// byLine: they are in a mappings file, each of whose lines is taken or refused by itself.
	byLine bool
}

// find is the place of a field like "map[3].v4".
func (o *origin) find(field string) (place, bool) {
	head, _, _ := strings.Cut(field, ".")
	if head == "pref64" {
		return o.pref64, o.pref64.line > 0
	}
	name, rest, _ := strings.Cut(head, "[")
	n, err := strconv.Atoi(strings.TrimSuffix(rest, "]"))
	if err != nil {
		return place{}, false
	}
	list := o.map4
	switch name {
	case "map":
		n -= o.first4
	case "map66":
		list, n = o.map66, n-o.first66
	default:
		return place{}, false
	}
	if n < 0 || n >= len(list) {
		return place{}, false
	}
	return list[n], true
}

// Load reads a configuration: TOML if the name ends in .toml, otherwise the
// syntax of the first map646.
func Load(path string) (*Config, error) { return load(path, true) }

// load leaves out the mappings, on demand: a process that takes over from
// another has them from there.
func load(path string, mappings bool) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c := &Config{
		TUN:   netio.TUNSpec{Name: "map646", MTU: 1500, Offload: true, BulkNice: -6, BulkBacklog: 3 << 20},
		Table: 647, Priority: 640, ICMPRate: 1000, Linger: 6 * time.Second, Control: "/run/map646.sock",
		Fast: FastConfig{Pin: "/sys/fs/bpf/map646", MaxPrefixes: 1024, Forward: "auto"}, Busiest: 100,
	}
	from := &origin{}
	if !strings.HasSuffix(path, ".toml") {
		c.TUN.Name = "tun646"
		if err := readSeed(path, data, c, from, 0); err != nil {
			return nil, err
		}
		data = nil
	} else if err := readTOML(path, data, c, from); err != nil {
		return nil, err
	}
	if !mappings {
		c.Translation.Mappings, c.Translation.Mappings66 = nil, nil
	}
	if err := c.finish(); err != nil {
		return nil, located(path, data, from, err)
	}
	err = c.build()
	if err != nil && from.byLine {
		err = c.sift(from)
	}
	if err != nil {
		return nil, located(path, data, from, err)
	}
	return c, nil
}

func fieldError(field, format string, args ...any) error {
	return fmt.Errorf(field+": "+format, args...)
}

// finish checks what hangs together, and fills in what is derived.
func (c *Config) finish() error {
	t := &c.Translation
	switch {
	case len(c.TUN.Name) > 15 || strings.ContainsAny(c.TUN.Name, "/ \t:") || c.TUN.Name == "." || c.TUN.Name == "..":
		return fieldError("tun.name", "%q is no name for a device", c.TUN.Name)
	case c.TUN.MTU < 1280 || c.TUN.MTU > 65535:
		return fieldError("tun.mtu", "%d is not from 1280 to 65535", c.TUN.MTU)
	case c.TUN.Queues < 0 || c.TUN.Queues > 256:
		return fieldError("tun.queues", "%d is not from 1 to 256 (0: one for each CPU, up to 8)", c.TUN.Queues)
	case c.TUN.BulkBacklog < 0 || c.TUN.BulkBacklog > 1<<30:
		return fieldError("tun.bulk_backlog", "%d is not from 0 to %d", c.TUN.BulkBacklog, 1<<30)
	case c.TUN.BulkNice < -20 || c.TUN.BulkNice > 0:
		return fieldError("tun.bulk_nice", "%d is not from -20 to 0", c.TUN.BulkNice)
	case c.ICMPRate < 0:
		return fieldError("icmp.rate", "%d is negative", c.ICMPRate)
	case c.Table < 1 || c.Table >= 252 && c.Table <= 255:
		return fieldError("route.table", "%d, or the one behind it, is not a table of one's own", c.Table)
	case c.Priority < 6 || c.Priority > 32763:
		return fieldError("route.priority", "%d is not from 6 to 32763", c.Priority)
	case c.Fast.MaxMappings < 0 || c.Fast.MaxMappings > 1<<24:
		return fieldError("fast.max_mappings", "%d is not from 1 to %d", c.Fast.MaxMappings, 1<<24)
	case c.Fast.MaxPrefixes < 1 || c.Fast.MaxPrefixes > 1<<20:
		return fieldError("fast.max_prefixes", "%d is not from 1 to %d", c.Fast.MaxPrefixes, 1<<20)
	case c.Fast.Forward != "auto" && c.Fast.Forward != "kernel" && c.Fast.Forward != "direct":
		return fieldError("fast.forward", "%q is not auto, kernel or direct", c.Fast.Forward)
	case c.Fast.Pin != "" && !filepath.IsAbs(c.Fast.Pin):
		return fieldError("fast.pin", "%q is not an absolute path", c.Fast.Pin)
	case c.Busiest < 0 || c.Busiest > mostBusy:
		return fieldError("metrics.busiest", "%d is not from 0 to %d", c.Busiest, mostBusy)
	}
	if _, _, err := net.SplitHostPort(c.MetricsListen); err != nil && c.MetricsListen != "" {
		return fieldError("metrics.listen", "%q is not HOST:PORT", c.MetricsListen)
	}
	for i, w := range c.Ways {
		field := fmt.Sprintf("health.route[%d]", i)
		if !w.To.IsValid() || w.To.IsUnspecified() || w.To.Is4In6() || w.To.Zone() != "" || w.To.IsMulticast() || w.To.IsLoopback() {
			return fieldError(field+".to", "%q is no address behind another router", w.To)
		}
		for j, d := range w.Devices {
			if _, err := pathpkg.Match(d, "eth0"); err != nil || d == "" {
				return fieldError(fmt.Sprintf("%s.devices[%d]", field, j), "bad pattern %q", d)
			}
		}
	}
	for i, d := range c.Fast.XDP {
		if _, err := pathpkg.Match(d, "eth0"); err != nil || d == "" {
			return fieldError(fmt.Sprintf("fast.xdp[%d]", i), "bad pattern %q", d)
		}
	}
	for i, d := range c.Fast.Devices {
		field := fmt.Sprintf("fast.devices[%d]", i)
		if _, err := pathpkg.Match(d, "eth0"); err != nil || d == "" {
			return fieldError(field, "bad pattern %q", d)
		}
		if ok, _ := pathpkg.Match(d, c.TUN.Name); ok {
			return fieldError(field, "%q would take the translator's own device %s", d, c.TUN.Name)
		}
	}
	if c.TUN.Queues == 0 {
		c.TUN.Queues = min(runtime.NumCPU(), 8)
	}
	const own = "an address of the device itself"
	taken := map[netip.Addr]string{}
	for i, p := range c.Addresses {
		field := fmt.Sprintf("tun.addresses[%d]", i)
		a := p.Addr()
		if a.Is4In6() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			return fieldError(field, "%v is not a unicast address", a)
		}
		if _, dup := taken[a]; dup {
			return fieldError(field, "duplicate address %v", a)
		}
		taken[a] = own
		if a.Is4() && !t.ICMPSource4.IsValid() {
			t.ICMPSource4 = a
		}
		if a.Is6() && !t.ICMPSource6.IsValid() && !(t.Pref64.IsValid() && t.Pref64.Contains(a)) {
			t.ICMPSource6 = a
		}
	}
	// Addresses that the kernel keeps to itself once the prefix is on the device.
	for _, p := range c.Addresses {
		switch a := p.Masked().Addr(); {
		case a.Is4() && p.Bits() < 31:
			taken[a] = "the network address of " + p.Masked().String()
			b := a.As4()
			for i := p.Bits(); i < 32; i++ {
				b[i/8] |= 0x80 >> (i % 8)
			}
			taken[netip.AddrFrom4(b)] = "the broadcast address of " + p.Masked().String()
		case a.Is6() && p.Bits() < 127:
			if _, ok := taken[a]; !ok {
				taken[a] = "the subnet-router anycast address of " + p.Masked().String()
			}
		}
	}
	c.taken = taken
	if d := c.DNS64; d != nil {
		if !d.Prefix.IsValid() {
			d.Prefix = t.Pref64
		}
		d.Private = t.Private // it must not promise what the translator drops
		if err := d.Check(); err != nil {
			return fmt.Errorf("dns64.%w", err)
		}
	}
	t.Confined = c.WholeInside
	for _, p := range c.basePolicy().Routes {
		if p.Addr().Is6() {
			t.Served = append(t.Served, p)
		}
	}
	return nil
}

// build makes the table; all mappings must be good.
func (c *Config) build() (err error) {
	t := &c.Translation
	for i, m := range t.Mappings {
		if why := c.unmappable(m.V4); why != "" {
			return fieldError(fmt.Sprintf("map[%d].v4", i), "%s", why)
		}
	}
	for i, m := range t.Mappings66 {
		if why := c.unmappable(m.Service); why != "" {
			return fieldError(fmt.Sprintf("map66[%d].service", i), "%s", why)
		}
	}
	c.table, err = siit.NewTable(*t)
	return err
}

// unmappable says why an outside address cannot be mapped, if so. (In a mapped
// prefix the node's own addresses are just left out.)
func (c *Config) unmappable(outside netip.Prefix) string {
	if outside.IsSingleIP() {
		if why, ok := c.taken[outside.Addr()]; ok {
			return outside.Addr().String() + " is " + why
		}
	}
	return ""
}

// prefixes are those of the device's addresses.
func (c *Config) prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, a := range c.Addresses {
		if !slices.Contains(out, a.Masked()) {
			out = append(out, a.Masked())
		}
	}
	return out
}

// basePolicy is what leads packets to the device whatever is mapped: a route for
// each prefix of its addresses, and for pref64 and pool4 if they lie outside of them.
// Adding a mapping inside of them changes no route anywhere.
func (c *Config) basePolicy() netio.LinkPolicy {
	p := netio.LinkPolicy{Link: c.TUN.Name, Protocol: routeProtocol, Table: c.Table, Priority: c.Priority, Except: c.Translation.Inside}
	p.Routes = c.prefixes()
	for _, f := range []netip.Prefix{c.Translation.Pref64, c.Translation.Pool4} {
		if f.IsValid() && !covered(p.Routes, f) {
			p.Routes = append(p.Routes, f)
		}
	}
	if c.WholeInside {
		p.Sources = slices.Clone(c.Translation.Inside)
	}
	return p
}

// detour adds to p what brings ICMPv6 errors of routers behind the translator, and of
// this node's kernel there, for they may quote 1:1 mapped addresses to clients that
// do not know them. Rules cannot look into ICMPv6, so it is all of it, but for echoes
// that the fast path has seen.
func (c *Config) detour(p *netio.LinkPolicy) {
	const icmpv6 = 58
	p.Detour, p.DetourMark, p.DetourExcept = icmpv6, netio.FastSeen, c.Translation.Served
}

// mappingPolicy adds to p what mappings need of their own.
func (c *Config) mappingPolicy(p *netio.LinkPolicy, entries iter.Seq[siit.Entry]) {
	prefixes := c.prefixes()
	for e := range entries {
		if !covered(prefixes, e.Outside) {
			p.Routes = append(p.Routes, e.Outside)
		}
		if e.Outside.Addr().Is6() && !(c.WholeInside && covered(c.Translation.Inside, e.Inside)) {
			p.Sources = append(p.Sources, e.Inside)
		}
	}
}

func covered(by []netip.Prefix, p netip.Prefix) bool {
	for _, b := range by {
		if b.Bits() <= p.Bits() && b.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// room is the size of the fast path's tables: as configured, or twice what the
// table holds now. six 0: as configured, for both kinds together.
func (f FastConfig) room(mappings4, mappings6 int) (four, six int) {
	if f.MaxMappings > 0 {
		return f.MaxMappings, 0
	}
	twice := func(n, least int) int {
		for least < 2*n && least < 1<<24 {
			least *= 2
		}
		return least
	}
	return twice(mappings4, 1<<16), twice(mappings6, 1<<12)
}

// routeProtocol marks what is ours in the kernel's tables (rtnetlink(7): the
// numbers above RTPROT_STATIC are for whoever wants one).
const routeProtocol = 246
