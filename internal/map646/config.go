package map646

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

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
	// 1:1 IPv6 mappings.
	Table, Priority int
	// ICMPRate is how many ICMP errors a queue may send in a second.
	ICMPRate int
	// Control is the control socket's path.
	Control string
	// Linger is how long, after the device has gone, packets for it or from mapped
	// machines still go nowhere, while the routers turn to another node. (ospf6d may
	// take 5 s to say that the prefixes have gone.)
	Linger time.Duration

	table *siit.Table
}

// file is the TOML form. Texts stay texts, to be checked with the field's name.
type file struct {
	Pref64        string `toml:"pref64"`
	UDPZero       string `toml:"udp_zero_checksum"`
	DecrementTTL  *bool  `toml:"decrement_ttl"`
	TrafficClass  string `toml:"traffic_class"`
	LowestIPv6MTU int    `toml:"lowest_ipv6_mtu"`
	MTU4          int    `toml:"mtu4"`
	MTU6          int    `toml:"mtu6"`
	Control       string `toml:"control"`
	Linger        string `toml:"linger"`
	MappingsFile  string `toml:"mappings_file"`
	Inside        []string
	TUN           struct {
		Name      string
		MTU       int
		Queues    int
		Offload   *bool
		Addresses []string
	} `toml:"tun"`
	ICMP struct {
		Source4 string
		Source6 string
		Rate    int
	} `toml:"icmp"`
	Route struct {
		Table    int
		Priority int
	} `toml:"route"`
	Map []struct {
		V4 string
		V6 string
	} `toml:"map"`
	Map66 []struct {
		Service string
		Inside  string
	} `toml:"map66"`
}

// place is a line of a file.
type place struct {
	file string
	line int
}

// origin is where the mappings behind the TOML file's own come from: field
// prefix, as in "map[3]", to place.
type origin map[string]place

// Load reads a configuration: TOML if the name ends in .toml, otherwise the
// syntax of the first map646.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c := &Config{
		TUN:   netio.TUNSpec{Name: "map646", MTU: 1500, Offload: true},
		Table: 647, Priority: 640, ICMPRate: 1000, Linger: 6 * time.Second, Control: "/run/map646.sock",
	}
	from := origin{}
	if !strings.HasSuffix(path, ".toml") {
		c.TUN.Name = "tun646"
		if err := readSeed(path, data, c, from, 0); err != nil {
			return nil, err
		}
		data = nil
	} else if err := readTOML(path, data, c, from); err != nil {
		return nil, err
	}
	if err := c.finish(); err != nil {
		return nil, located(path, data, from, err)
	}
	return c, nil
}

func fieldError(field, format string, args ...any) error {
	return fmt.Errorf(field+": "+format, args...)
}

// located puts file and line before an error that begins with a field's name.
func located(path string, data []byte, from origin, err error) error {
	field, _, _ := strings.Cut(err.Error(), ":")
	head, _, _ := strings.Cut(field, ".")
	if p, ok := from[head]; ok {
		return fmt.Errorf("%w: %s:%d: %w", ErrConfig, p.file, p.line, err)
	}
	if line := lineOf(data, field); line > 0 {
		return fmt.Errorf("%w: %s:%d: %w", ErrConfig, path, line, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrConfig, path, err)
}

// lineOf finds the line of a field like "map[1].v4" or "tun.addresses[2]" in a
// TOML document; 0 if it is not there. Done only for an error, so it may walk.
func lineOf(data []byte, field string) int {
	var p unstable.Parser
	p.Reset(data)
	table, counts := "", map[string]int{}
	best, bestLen := 0, 0
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		offset := -1
		for it := e.Key(); it.Next(); {
			n := it.Node()
			if offset < 0 {
				offset = int(n.Raw.Offset)
			}
			parts = append(parts, string(n.Data))
		}
		name := strings.Join(parts, ".")
		switch e.Kind {
		case unstable.Table:
			table = name
			name = ""
		case unstable.ArrayTable:
			table = name + "[" + strconv.Itoa(counts[name]) + "]"
			counts[name]++
			name = ""
		}
		full := strings.Trim(table+"."+name, ".")
		// An exact hit, or the nearest thing around it.
		if offset >= 0 && len(full) > bestLen && (field == full || strings.HasPrefix(field, full+".") || strings.HasPrefix(field, full+"[")) {
			best, bestLen = 1+bytes.Count(data[:offset], []byte("\n")), len(full)
		}
	}
	return best
}

func readTOML(path string, data []byte, c *Config, from origin) error {
	var f file
	d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		var strict *toml.StrictMissingError
		var bad *toml.DecodeError
		switch {
		case errors.As(err, &strict) && len(strict.Errors) > 0:
			e := &strict.Errors[0]
			line, _ := e.Position()
			return fmt.Errorf("%w: %s:%d: %s: unknown field", ErrConfig, path, line, strings.Join(e.Key(), "."))
		case errors.As(err, &bad):
			line, _ := bad.Position()
			key := strings.Join(bad.Key(), ".")
			if key != "" {
				key += ": "
			}
			return fmt.Errorf("%w: %s:%d: %s%w", ErrConfig, path, line, key, bad)
		}
		return fmt.Errorf("%w: %s: %w", ErrConfig, path, err)
	}
	if err := f.apply(c); err != nil {
		return located(path, data, nil, err)
	}
	if f.MappingsFile != "" {
		name := f.MappingsFile
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		more, err := os.ReadFile(name)
		if err != nil {
			return located(path, data, nil, fieldError("mappings_file", "%w", err))
		}
		return readSeed(name, more, c, from, 0)
	}
	return nil
}

func (f *file) apply(c *Config) error {
	t := &c.Translation
	var err error
	if f.Pref64 != "" {
		if t.Pref64, err = netip.ParsePrefix(f.Pref64); err != nil {
			return fieldError("pref64", "bad prefix %q", f.Pref64)
		}
	}
	switch f.UDPZero {
	case "", "compute":
	case "drop":
		t.UDPZero = siit.UDPZeroDrop
	default:
		return fieldError("udp_zero_checksum", `%q is neither "compute" nor "drop"`, f.UDPZero)
	}
	switch f.TrafficClass {
	case "", "copy":
	case "zero":
		t.ZeroTrafficClass = true
	default:
		return fieldError("traffic_class", `%q is neither "copy" nor "zero"`, f.TrafficClass)
	}
	t.KeepTTL = f.DecrementTTL != nil && !*f.DecrementTTL
	t.LowestIPv6MTU, t.MTU4, t.MTU6 = f.LowestIPv6MTU, f.MTU4, f.MTU6
	for i, s := range f.Inside {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fieldError(fmt.Sprintf("inside[%d]", i), "bad prefix %q", s)
		}
		t.Inside = append(t.Inside, p)
	}
	for _, a := range []struct {
		field, text string
		to          *netip.Addr
	}{{"icmp.source4", f.ICMP.Source4, &t.ICMPSource4}, {"icmp.source6", f.ICMP.Source6, &t.ICMPSource6}} {
		if a.text != "" {
			if *a.to, err = netip.ParseAddr(a.text); err != nil {
				return fieldError(a.field, "bad address %q", a.text)
			}
		}
	}
	for i, s := range f.TUN.Addresses {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fieldError(fmt.Sprintf("tun.addresses[%d]", i), "bad address %q: want ADDRESS/LENGTH", s)
		}
		c.Addresses = append(c.Addresses, p)
	}
	for i, m := range f.Map {
		v4, err := parseHost(m.V4)
		if err != nil {
			return fieldError(fmt.Sprintf("map[%d].v4", i), "%w", err)
		}
		v6, err := parseHost(m.V6)
		if err != nil {
			return fieldError(fmt.Sprintf("map[%d].v6", i), "%w", err)
		}
		t.Mappings = append(t.Mappings, siit.Mapping{V4: v4, V6: v6})
	}
	for i, m := range f.Map66 {
		s, err := parseHost(m.Service)
		if err != nil {
			return fieldError(fmt.Sprintf("map66[%d].service", i), "%w", err)
		}
		in, err := parseHost(m.Inside)
		if err != nil {
			return fieldError(fmt.Sprintf("map66[%d].inside", i), "%w", err)
		}
		t.Mappings66 = append(t.Mappings66, siit.Mapping66{Service: s, Inside: in})
	}
	if f.Linger != "" {
		if c.Linger, err = time.ParseDuration(f.Linger); err != nil || c.Linger < 0 || c.Linger > time.Minute {
			return fieldError("linger", "%q is not a time from 0s to 1m", f.Linger)
		}
	}
	setText(&c.TUN.Name, f.TUN.Name)
	setText(&c.Control, f.Control)
	setInt(&c.TUN.MTU, f.TUN.MTU)
	setInt(&c.TUN.Queues, f.TUN.Queues)
	setInt(&c.ICMPRate, f.ICMP.Rate)
	setInt(&c.Table, f.Route.Table)
	setInt(&c.Priority, f.Route.Priority)
	if f.TUN.Offload != nil {
		c.TUN.Offload = *f.TUN.Offload
	}
	return nil
}

func setText(to *string, s string) {
	if s != "" {
		*to = s
	}
}

func setInt(to *int, n int) {
	if n != 0 {
		*to = n
	}
}

// parseHost takes an address, or an address with the full length behind it.
func parseHost(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("bad address %q", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// finish checks what hangs together, fills in what is derived, and builds the
// table.
func (c *Config) finish() error {
	t := &c.Translation
	switch {
	case len(c.TUN.Name) > 15 || strings.ContainsAny(c.TUN.Name, "/ \t:") || c.TUN.Name == "." || c.TUN.Name == "..":
		return fieldError("tun.name", "%q is no name for a device", c.TUN.Name)
	case c.TUN.MTU < 1280 || c.TUN.MTU > 65535:
		return fieldError("tun.mtu", "%d is not from 1280 to 65535", c.TUN.MTU)
	case c.TUN.Queues < 0 || c.TUN.Queues > 256:
		return fieldError("tun.queues", "%d is not from 1 to 256 (0: one for each CPU, up to 8)", c.TUN.Queues)
	case c.ICMPRate < 0:
		return fieldError("icmp.rate", "%d is negative", c.ICMPRate)
	case c.Table < 1 || c.Table >= 253 && c.Table <= 255:
		return fieldError("route.table", "%d is not a table of one's own", c.Table)
	case c.Priority < 1 || c.Priority > 32764:
		return fieldError("route.priority", "%d is not from 1 to 32764", c.Priority)
	}
	if c.TUN.Queues == 0 {
		c.TUN.Queues = min(runtime.NumCPU(), 8)
	}
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
		taken[a] = "an address of the device itself"
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
	for i, m := range t.Mappings {
		if why, ok := taken[m.V4.Addr()]; ok {
			return fieldError(fmt.Sprintf("map[%d].v4", i), "%v is %s", m.V4.Addr(), why)
		}
	}
	for i, m := range t.Mappings66 {
		if why, ok := taken[m.Service.Addr()]; ok {
			return fieldError(fmt.Sprintf("map66[%d].service", i), "%v is %s", m.Service.Addr(), why)
		}
	}
	var err error
	c.table, err = siit.NewTable(*t)
	return err
}

// policy is what leads packets to the device: a route for each prefix of its
// addresses, and for whatever lies outside of them. Adding a mapping inside of
// them changes no route anywhere.
func (c *Config) policy() netio.LinkPolicy {
	p := netio.LinkPolicy{Link: c.TUN.Name, Protocol: routeProtocol, Table: c.Table, Priority: c.Priority}
	for _, a := range c.Addresses {
		if !slices.Contains(p.Routes, a.Masked()) {
			p.Routes = append(p.Routes, a.Masked())
		}
	}
	prefixes := len(p.Routes)
	route := func(want netip.Prefix) {
		for _, a := range p.Routes[:prefixes] {
			if a.Bits() <= want.Bits() && a.Contains(want.Addr()) {
				return
			}
		}
		p.Routes = append(p.Routes, want)
	}
	t := &c.Translation
	if t.Pref64.IsValid() {
		route(t.Pref64)
	}
	for _, m := range t.Mappings {
		route(m.V4)
	}
	for _, m := range t.Mappings66 {
		route(m.Service)
		p.Sources = append(p.Sources, m.Inside)
	}
	p.Except = t.Inside
	return p
}

// routeProtocol marks what is ours in the kernel's tables (rtnetlink(7): the
// numbers above RTPROT_STATIC are for whoever wants one).
const routeProtocol = 246
