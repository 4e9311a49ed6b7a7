package map646

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"widecloud/internal/map646/dns64"
	"widecloud/internal/packet/siit"
)

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
	Private       string `toml:"private"`
	MappingsFile  string `toml:"mappings_file"`
	Inside        []string
	TUN           struct {
		Name        string
		MTU         int
		Queues      int
		Offload     *bool
		BulkNice    *int `toml:"bulk_nice"`
		BulkBacklog *int `toml:"bulk_backlog"`
		Addresses   []string
	} `toml:"tun"`
	ICMP struct {
		Source4 string
		Source6 string
		Pool4   string
		Rate    int
	} `toml:"icmp"`
	Route struct {
		Table    int
		Priority int
		Sources  string
	} `toml:"route"`
	Health struct {
		Route []struct {
			To      string
			Devices []string
		}
	} `toml:"health"`
	Fast struct {
		Devices     []string
		XDP         []string `toml:"xdp"`
		Pin         *string
		MaxMappings int `toml:"max_mappings"`
		MaxPrefixes int `toml:"max_prefixes"`
		Clsact      bool
		Forward     *string
		Keep        bool
	} `toml:"fast"`
	Metrics struct {
		Listen  string
		Busiest *int
	} `toml:"metrics"`
	DNS64 *dnsFile `toml:"dns64"`
	Map   []struct {
		V4 string
		V6 string
	} `toml:"map"`
	Map66 []struct {
		Service string
		Inside  string
	} `toml:"map66"`
}

type dnsFile struct {
	Listen      []string
	Upstream    []string
	Prefix      string
	Exclude     []string
	AllowFrom   []string `toml:"allow_from"`
	TrustAD     bool     `toml:"trust_ad"`
	Timeout     string
	MaxInFlight int `toml:"max_in_flight"`
	MaxConns    int `toml:"max_conns"`
}

// located puts file and line before an error that begins with a field's name.
func located(path string, data []byte, from *origin, err error) error {
	field, _, _ := strings.Cut(err.Error(), ":")
	if p, ok := from.find(field); ok {
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

func readTOML(path string, data []byte, c *Config, from *origin) error {
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
		return located(path, data, from, err)
	}
	from.first4, from.first66 = len(c.Translation.Mappings), len(c.Translation.Mappings66)
	if f.MappingsFile != "" {
		name := f.MappingsFile
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		more, err := os.ReadFile(name)
		if err != nil {
			return located(path, data, from, fieldError("mappings_file", "%w", err))
		}
		from.byLine = true
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
	switch f.Private {
	case "", "auto":
	case "allow":
		t.Private = siit.PrivateAllow
	case "drop":
		t.Private = siit.PrivateDrop
	default:
		return fieldError("private", `%q is none of "auto", "allow" and "drop"`, f.Private)
	}
	if f.ICMP.Pool4 != "" {
		if t.Pool4, err = netip.ParsePrefix(f.ICMP.Pool4); err != nil {
			return fieldError("icmp.pool4", "bad prefix %q", f.ICMP.Pool4)
		}
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
	if f.TUN.BulkBacklog != nil {
		c.TUN.BulkBacklog = *f.TUN.BulkBacklog
	}
	if f.TUN.BulkNice != nil {
		c.TUN.BulkNice = *f.TUN.BulkNice
	}
	switch f.Route.Sources {
	case "", "mapped":
	case "inside":
		c.WholeInside = true
	default:
		return fieldError("route.sources", `%q is neither "mapped" nor "inside"`, f.Route.Sources)
	}
	for i, r := range f.Health.Route {
		to, err := netip.ParseAddr(r.To)
		if err != nil {
			return fieldError(fmt.Sprintf("health.route[%d].to", i), "bad address %q", r.To)
		}
		c.Ways = append(c.Ways, Way{To: to, Devices: r.Devices})
	}
	c.Fast.Devices, c.Fast.XDP, c.Fast.Keep, c.MetricsListen = f.Fast.Devices, f.Fast.XDP, f.Fast.Keep, f.Metrics.Listen
	c.Fast.Clsact = f.Fast.Clsact
	if f.Fast.Forward != nil {
		c.Fast.Forward = *f.Fast.Forward
	}
	setInt(&c.Fast.MaxMappings, f.Fast.MaxMappings)
	setInt(&c.Fast.MaxPrefixes, f.Fast.MaxPrefixes)
	if f.Fast.Pin != nil {
		c.Fast.Pin = *f.Fast.Pin
	}
	if f.Metrics.Busiest != nil {
		c.Busiest = *f.Metrics.Busiest
	}
	if f.DNS64 != nil {
		if c.DNS64, err = f.DNS64.options(); err != nil {
			return err
		}
	}
	return nil
}

func (f *dnsFile) options() (*dns64.Options, error) {
	o := &dns64.Options{TrustAD: f.TrustAD, MaxInFlight: f.MaxInFlight, MaxConns: f.MaxConns}
	for _, l := range []struct {
		field string
		text  []string
		to    *[]netip.AddrPort
	}{{"dns64.listen", f.Listen, &o.Listen}, {"dns64.upstream", f.Upstream, &o.Upstream}} {
		for i, s := range l.text {
			a, err := netip.ParseAddrPort(s)
			if err != nil {
				// Port 53 may be left out.
				host, err := netip.ParseAddr(strings.Trim(s, "[]"))
				if err != nil {
					return nil, fieldError(fmt.Sprintf("%s[%d]", l.field, i), "bad address %q", s)
				}
				a = netip.AddrPortFrom(host, 53)
			}
			*l.to = append(*l.to, a)
		}
	}
	for _, l := range []struct {
		field string
		text  []string
		to    *[]netip.Prefix
	}{{"dns64.exclude", f.Exclude, &o.Exclude}, {"dns64.allow_from", f.AllowFrom, &o.AllowFrom}} {
		for i, s := range l.text {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return nil, fieldError(fmt.Sprintf("%s[%d]", l.field, i), "bad prefix %q", s)
			}
			*l.to = append(*l.to, p)
		}
	}
	var err error
	if f.Prefix != "" {
		if o.Prefix, err = netip.ParsePrefix(f.Prefix); err != nil {
			return nil, fieldError("dns64.prefix", "bad prefix %q", f.Prefix)
		}
	}
	if f.Timeout != "" {
		if o.Timeout, err = time.ParseDuration(f.Timeout); err != nil || o.Timeout <= 0 {
			return nil, fieldError("dns64.timeout", "%q is not a time like 2s", f.Timeout)
		}
	}
	return o, nil
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
