package map646

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// Levels of a Finding.
const (
	FindOK   = "ok"
	FindWarn = "warn" // it works, but not as well as it could, or not for all
	FindBad  = "bad"  // translation does not work like this
)

// Finding is what one of Doctor's checks found.
type Finding struct {
	Level string `json:"level"`
	Check string `json:"check"`
	Found string `json:"found"`
	Do    string `json:"do,omitempty"` // what to do about it
}

// DoctorOptions says what to look at.
type DoctorOptions struct {
	ConfigPath string
	Socket     string    // control socket; "": that of the configuration
	NS         *netio.NS // nil: the process's own
	VTYSocket  string    // FRR's directory of sockets; "": its default
}

// doctor collects findings.
type doctor struct {
	o    DoctorOptions
	ns   *netio.NS
	c    *Config // never nil: defaults if there is no good one
	list []Finding
}

// Doctor looks at this machine as a place for a translator. It works without a
// running daemon, and changes nothing.
func Doctor(ctx context.Context, o DoctorOptions) ([]Finding, error) {
	d := &doctor{o: o, ns: o.NS}
	if d.ns == nil {
		ns, err := netio.CurrentNS()
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		d.ns = ns
	}
	var err error
	if d.c, err = Load(o.ConfigPath); err != nil {
		d.say(FindBad, "configuration", err.Error(), "mend it; what follows is about the defaults")
		d.c = &Config{TUN: netio.TUNSpec{Name: "map646", MTU: 1500}, Control: "/run/map646.sock", Fast: FastConfig{Pin: "/sys/fs/bpf/map646", MaxPrefixes: 1}}
		if d.c.table, err = siit.NewTable(siit.Spec{}); err != nil {
			return nil, err
		}
	} else {
		d.say(FindOK, "configuration", fmt.Sprintf("%d mappings", d.c.table.Len()), "")
	}
	if r := d.c.Refused; len(r) > 0 {
		d.say(FindWarn, "mappings file", fmt.Sprintf("%d lines are left out, the first: %v", len(r), r[0]), "mend them (`map646 check` lists all); the others are in force")
	}
	running := d.daemon(ctx)
	d.kernel()
	d.fast()
	d.sysctls()
	d.devices()
	d.ways()
	d.addresses(running)
	d.routing(ctx)
	return d.list, nil
}

func (d *doctor) say(level, check, found, do string) {
	d.list = append(d.list, Finding{level, check, found, do})
}

// want says ok, or what else.
func (d *doctor) want(good bool, level, check, found, do string) {
	if good {
		level, do = FindOK, ""
	}
	d.say(level, check, found, do)
}

func (d *doctor) daemon(ctx context.Context) bool {
	socket := d.o.Socket
	if socket == "" {
		socket = d.c.Control
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var s Stats
	if err := Control(ctx, socket, "stats", &s); err != nil {
		d.say(FindWarn, "daemon", err.Error(), "start it: map646 run")
		return false
	}
	switch {
	case len(s.Unhealthy) > 0:
		d.say(FindBad, "daemon", "not healthy: "+strings.Join(s.Unhealthy, "; "), "see its log")
	case s.Draining:
		d.say(FindWarn, "daemon", "draining", "map646 drain --off")
	default:
		d.say(FindOK, "daemon", fmt.Sprintf("process %d translates, %d mappings", s.PID, s.Mappings+s.Mappings66), "")
	}
	if f := s.Fast; f != nil {
		d.want(f.On && len(f.Refused) == 0 && len(f.Attached) > 0, FindWarn, "fast path", "attached to "+strings.Join(f.Attached, " ")+" "+f.Why, "see the devices below")
		for dev, why := range f.Refused {
			d.say(FindWarn, "fast path on "+dev, why, "until then the full path serves it")
		}
	}
	return true
}

func version(release string) (n [2]int) {
	for i, s := range strings.SplitN(release, ".", 3) {
		if i < 2 {
			n[i], _ = strconv.Atoi(strings.TrimRightFunc(s, func(r rune) bool { return r < '0' || r > '9' }))
		}
	}
	return n
}

func (d *doctor) kernel() {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		d.say(FindBad, "kernel", err.Error(), "mount /proc")
		return
	}
	release := strings.TrimSpace(string(b))
	v := version(release)
	since := func(major, minor int) bool { return v[0] > major || v[0] == major && v[1] >= minor }
	d.want(since(5, 10), FindBad, "kernel", release, "Linux 5.10 or later is needed")
	d.want(since(6, 2), FindWarn, "UDP super-packets", map[bool]string{true: "the kernel has them (6.2)", false: release + " has none"}[since(6, 2)], "Linux 6.2 or later lets UDP cross the device in super-packets")
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		d.say(FindBad, "/dev/net/tun", err.Error(), "modprobe tun; in a container, pass the device in")
	} else {
		f.Close()
		d.say(FindOK, "/dev/net/tun", "can be opened", "")
	}
	if has, known := kernelConfig(release, "CONFIG_IPV6_SUBTREES"); known {
		d.want(has, FindBad, "source-specific routes", fmt.Sprintf("CONFIG_IPV6_SUBTREES: %v", has), "1:1 IPv6 needs a kernel with them")
	}
	if caps := capabilities(); caps&(1<<12) == 0 {
		d.say(FindBad, "rights", "no CAP_NET_ADMIN", "run as root, or give it")
	} else {
		d.want(caps&(1<<39|1<<21) != 0, FindWarn, "rights", "CAP_NET_ADMIN", "the fast path needs CAP_BPF and CAP_PERFMON too, and the device's queues cost less with them")
		if n := d.c.TUN.BulkNice; n != 0 {
			d.want(caps&(1<<23) != 0, FindWarn, "priority", fmt.Sprintf("nice value %d for readers of bulk, CAP_SYS_NICE: %v", n, caps&(1<<23) != 0), "give it; streams then cost less on the full path")
		}
	}
	d.say(FindOK, "CPUs", fmt.Sprintf("%d, queues of the device: %d", runtime.NumCPU(), d.c.TUN.Queues), "")
}

// capabilities are the effective ones.
func capabilities() uint64 {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(line, "CapEff:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(s), 16, 64)
			return n
		}
	}
	return 0
}

// kernelConfig looks an option up where distributions keep the configuration.
func kernelConfig(release, option string) (on, known bool) {
	b, err := os.ReadFile("/boot/config-" + release)
	if err != nil {
		f, err := os.Open("/proc/config.gz")
		if err != nil {
			return false, false
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			return false, false
		}
		if b, err = io.ReadAll(z); err != nil {
			return false, false
		}
	}
	return bytes.Contains(b, []byte("\n"+option+"=y\n")), true
}

func (d *doctor) fast() {
	if v, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable"); err == nil {
		on := strings.TrimSpace(string(v))
		d.want(on != "0", FindWarn, "BPF JIT", "bpf_jit_enable = "+on, "sysctl -w net.core.bpf_jit_enable=1")
	}
	var lim syscall.Rlimit
	const memlock = 8
	if err := syscall.Getrlimit(memlock, &lim); err == nil {
		release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
		v := version(string(release))
		// Since Linux 5.11 BPF memory is accounted to the cgroup.
		enough := v[0] > 5 || v[0] == 5 && v[1] >= 11 || lim.Cur > 1<<30
		d.want(enough, FindWarn, "locked memory", map[bool]string{true: "not limited by memlock", false: fmt.Sprintf("limit of %d bytes", lim.Cur)}[enough], "LimitMEMLOCK=infinity")
	}
	if len(d.c.Fast.Devices) == 0 {
		d.say(FindWarn, "fast path", "fast.devices names none: all packets take the full path", "name the devices on both sides")
	}
	if pin := d.c.Fast.Pin; pin != "" {
		var st syscall.Statfs_t
		at, err := pin, syscall.Statfs(pin, &st)
		for errors.Is(err, syscall.ENOENT) && at != "/" {
			at = filepath.Dir(at)
			err = syscall.Statfs(at, &st)
		}
		const bpffs = 0xcafe4a11
		d.want(err == nil && uint32(st.Type) == bpffs, FindWarn, "bpffs", fmt.Sprintf("%s: pinned: %v", pin, pinned(pin)), "mount -t bpf bpf /sys/fs/bpf; without it the fast path ends with the daemon")
	}
	// The proof: it loads.
	f, err := d.ns.OpenFast(netio.FastSpec{MaxMappings: 1, MaxPrefixes: 1})
	if err != nil {
		d.say(FindWarn, "eBPF program", err.Error(), "the full path serves; for the fast one see above")
		return
	}
	at := f.Hook()
	if at == "clsact" {
		at += ", for the kernel has no tcx (6.6)"
	}
	d.want(f.Close() == nil, FindWarn, "eBPF program", "the kernel takes it; devices get it by "+at, "")
	if len(d.c.Fast.Devices) > 0 {
		d.forwarding()
	}
}

// forwarding is who sends on what the fast path has translated, and why.
func (d *doctor) forwarding() {
	const name = "fast.forward"
	how := d.c.Fast.Forward
	hooks, err := d.ns.ForwardHooks(routeProtocol)
	list := strings.Join(hooks, ", ")
	switch {
	case err != nil:
		d.say(FindWarn, name, fmt.Sprintf("%s: cannot see who looks at forwarded packets: %v", how, err), "")
	case how == "auto" && list != "":
		d.say(FindOK, name, "auto: the kernel sends on what is translated, for there are "+list, "if translated packets need not pass these, \"direct\" costs less")
	case how == "direct" && list != "":
		d.say(FindWarn, name, "direct: translated packets do not pass "+list, "\"auto\" or \"kernel\", if they should")
	default:
		d.say(FindOK, name, how, "")
	}
}

func (d *doctor) sysctls() {
	get := func(key string) string {
		v, err := d.ns.GetSysctl(key)
		if err != nil {
			return "-"
		}
		return v
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		name := strings.ReplaceAll(key, "/", ".")
		d.want(get(key) != "0", FindBad, name, get(key), "sysctl -w "+name+"=1")
	}
	v := get("net/ipv4/conf/all/rp_filter")
	d.want(v != "1", FindBad, "net.ipv4.conf.all.rp_filter", v, "translated packets are dropped: sysctl -w net.ipv4.conf.all.rp_filter=0 (or 2)")
	v = get("net/ipv6/conf/all/accept_redirects")
	d.want(v == "0" || get("net/ipv6/conf/all/forwarding") == "1", FindWarn, "net.ipv6.conf.all.accept_redirects", v, "routers should not believe redirects: set it to 0")
	v = get("net/ipv4/conf/all/accept_redirects")
	d.want(v == "0" || get("net/ipv4/ip_forward") == "1", FindWarn, "net.ipv4.conf.all.accept_redirects", v, "routers should not believe redirects: set it to 0")
	for _, key := range []string{"net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy"} {
		if v := get(key); v == "0" {
			d.say(FindOK, strings.ReplaceAll(key, "/", "."), "0: several next hops share by pairs of hosts; 1 shares by connections", "")
		}
	}
	switch n := get("net/netfilter/nf_conntrack_count"); n {
	case "-", "0":
		d.say(FindOK, "connection tracking", "none", "")
	default:
		d.say(FindWarn, "connection tracking", n+" connections are tracked here", "it costs each packet twice, and drops those that another node began: `notrack` what is translated")
	}
}

func (d *doctor) devices() {
	links, err := d.ns.Links()
	if err != nil {
		d.say(FindBad, "devices", err.Error(), "")
		return
	}
	for _, l := range links {
		if l.Name == "lo" || l.Name == d.c.TUN.Name || !l.Up || l.Kind == "tun" {
			continue
		}
		fast := d.c.takes(l.Name)
		level := FindOK
		var found, do []string
		worse := func(to, what, how string) {
			if level == FindOK || to == FindBad {
				level = to
			}
			found, do = append(found, what), append(do, how)
		}
		found = append(found, fmt.Sprintf("%s, MTU %d", l.Kind, l.MTU))
		if fast {
			found = append(found, "meant for the fast path")
		}
		all, _ := d.ns.GetSysctl("net/ipv4/conf/all/rp_filter")
		if v, err := d.ns.GetSysctl("net/ipv4/conf/" + l.Name + "/rp_filter"); err == nil && v == "1" && all != "2" {
			worse(FindWarn, "rp_filter 1", "sysctl -w net/ipv4/conf/"+l.Name+"/rp_filter=0 (or 2): it drops what the fast path translates")
		}
		for _, family := range []string{"ipv4", "ipv6"} {
			if v, err := d.ns.GetSysctl("net/" + family + "/conf/" + l.Name + "/forwarding"); err == nil && v == "0" {
				worse(FindWarn, "no "+family+" forwarding", "sysctl -w net/"+family+"/conf/"+l.Name+"/forwarding=1")
			}
		}
		d.offloads(l.Name, worse)
		d.say(level, "device "+l.Name, strings.Join(found, ", "), strings.Join(do, "; "))
	}
	// Where the first machines are, and whether packets fit the way.
	seen := map[string]bool{}
	n := 0
	for e := range d.c.table.Entries() {
		if n++; n > 1000 {
			break
		}
		r, err := d.ns.RouteTo(e.Inside.Addr(), netip.Addr{}, "")
		if err != nil || r.Link == "" || r.Link == "lo" || r.Link == d.c.TUN.Name || seen[r.Link] {
			continue
		}
		seen[r.Link] = true
		l, err := d.ns.Link(r.Link)
		if err != nil {
			continue
		}
		d.want(d.c.TUN.MTU <= l.MTU, FindWarn, "MTU towards "+short(e.Inside), fmt.Sprintf("%s has %d, %s %d", r.Link, l.MTU, d.c.TUN.Name, d.c.TUN.MTU),
			fmt.Sprintf("tun.mtu = %d: then senders are told before translation", l.MTU))
		if l.MTU < 1520 {
			d.say(FindOK, "MTU from IPv4", fmt.Sprintf("IPv4 packets grow by 20 bytes: those of more than %d are answered by Fragmentation Needed, or cut", l.MTU-20), "")
		}
	}
}

// offloads looks at what the device does for the processor.
func (d *doctor) offloads(dev string, worse func(level, what, how string)) {
	on, err := d.ns.Offloads(dev)
	if err != nil {
		return // not an Ethernet device
	}
	if !on["rx-gro"] {
		worse(FindWarn, "GRO off", "ethtool -K "+dev+" gro on: the full path costs 2.5 times as much without")
	}
	if on["rx-gro-list"] {
		worse(FindWarn, "rx-gro-list on", "ethtool -K "+dev+" rx-gro-list off: right with the fast path only since January 2026")
	}
	if !on["tx-checksum-ip-generic"] && !(on["tx-checksum-ipv4"] && on["tx-checksum-ipv6"]) {
		worse(FindWarn, "checksums are not offloaded", "ethtool -K "+dev+" tx on, if it can")
	}
	if !on["tx-tcp-segmentation"] || !on["tx-tcp6-segmentation"] {
		worse(FindWarn, "TSO off", "ethtool -K "+dev+" tso on: super-packets are cut by the processor")
	}
}

func (d *doctor) addresses(running bool) {
	links, err := d.ns.Links()
	if err != nil {
		return
	}
	bad := false
	for _, l := range links {
		addrs, err := d.ns.Addrs(l.Name)
		if err != nil {
			continue
		}
		for _, p := range addrs {
			if e, ok := d.c.table.Lookup(p.Addr()); ok && e.Outside.IsSingleIP() && e.Outside.Addr() == p.Addr() {
				bad = true
				d.say(FindBad, "mapped address on "+l.Name, p.Addr().String()+" is this node's own: packets to it are never translated", "ip addr del "+p.String()+" dev "+l.Name)
			}
		}
	}
	if !bad {
		d.say(FindOK, "mapped addresses", "none is given to an interface", "")
	}
	if !running {
		return
	}
	n := 0
	for e := range d.c.table.Entries() {
		if n++; n > 100 {
			break
		}
		r, err := d.ns.RouteTo(e.Outside.Addr(), netip.Addr{}, "")
		if err != nil || r.Link != d.c.TUN.Name {
			if err == nil {
				err = fmt.Errorf("it leads to %s", r.Link)
			}
			d.say(FindBad, "route of "+short(e.Outside), err.Error(), "another route is in the way: ip route get "+e.Outside.Addr().String())
			return
		}
	}
	d.say(FindOK, "routes of mapped addresses", "lead to "+d.c.TUN.Name, "")
	d.detour()
}

// detour looks whether errors of routers about 1:1 mappings come to the translator.
func (d *doctor) detour() {
	p := d.c.basePolicy()
	for e := range d.c.table.Entries() {
		if e.Outside.Addr().Is6() {
			d.c.detour(&p)
			break
		}
	}
	if p.Detour == 0 {
		return
	}
	const check = "rules for ICMPv6 errors"
	missing, err := d.ns.MissingDetour(p)
	switch {
	case err != nil:
		d.say(FindBad, check, err.Error(), "")
	case missing != "":
		d.say(FindBad, check, "missing: "+missing, "map646 reload; until then routers' errors about 1:1 IPv6 quote inside addresses")
	default:
		d.say(FindOK, check, fmt.Sprintf("%d to %d and %d: ICMPv6 goes by %s", p.Priority-5, p.Priority-1, p.Priority+2, d.c.TUN.Name), "")
	}
	if v, err := d.ns.GetSysctl("net/ipv6/fwmark_reflect"); err == nil && v == "1" {
		d.say(FindWarn, "fwmark_reflect", "1: this node's errors about pings that took the fast path quote inside addresses", "sysctl -w net.ipv6.fwmark_reflect=0")
	}
}

func (d *doctor) ways() {
	for i, w := range d.c.Ways {
		check := fmt.Sprintf("health.route[%d]", i)
		if err := w.lack(d.ns, d.c.TUN.Name); err != nil {
			d.say(FindBad, check, err.Error(), "the prefixes are withdrawn until it is there")
		} else {
			d.say(FindOK, check, "there is a way to "+w.To.String(), "")
		}
	}
}

// routing looks whether FRR, if it is there, announces the device's prefixes.
func (d *doctor) routing(ctx context.Context) {
	path, err := exec.LookPath("vtysh")
	if err != nil || len(d.c.Addresses) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	args := []string{"-c", "show running-config"}
	if d.o.VTYSocket != "" {
		args = append([]string{"--vty_socket", d.o.VTYSocket}, args...)
	}
	text, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		d.say(FindWarn, "FRR", "does not answer: "+err.Error(), "who announces the prefixes?")
		return
	}
	conf := parseFRR(string(text))
	families := map[bool]bool{}
	for _, p := range d.c.Addresses {
		families[p.Addr().Is4()] = true
	}
	for _, four := range []bool{true, false} {
		if !families[four] {
			continue
		}
		name := map[bool]string{true: "IPv4", false: "IPv6"}[four]
		how := conf.announces(d.c.TUN.Name, four)
		d.want(how != "", FindWarn, "FRR, "+name, "the prefixes of "+d.c.TUN.Name+": "+how, "nothing that announces them is seen: a passive interface (OSPF), or redistribute connected")
	}
}

// frrConfig is FRR's configuration, by section.
type frrConfig map[string][]string

func parseFRR(text string) frrConfig {
	c := frrConfig{}
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "!" || line == "exit":
			section = ""
		case !strings.HasPrefix(line, " "):
			section = line
		default:
			c[section] = append(c[section], strings.TrimSpace(line))
		}
	}
	return c
}

// announces says by what means the device's prefixes are told to others.
func (c frrConfig) announces(dev string, four bool) string {
	area, router := "ip ospf area", "router ospf"
	if !four {
		area, router = "ipv6 ospf6 area", "router ospf6"
	}
	with := func(start string) bool {
		return slices.ContainsFunc(c["interface "+dev], func(l string) bool { return strings.HasPrefix(l, start) })
	}
	// One with a list announces the way out, say, and not the prefixes.
	if with(area) && (four || !with("ipv6 ospf6 advertise prefix-list ")) {
		return "in " + router + " by the interface"
	}
	for section, lines := range c {
		head, _, _ := strings.Cut(section, " vrf")
		if head != router && !strings.HasPrefix(head, "router bgp") {
			continue
		}
		for _, l := range lines {
			if strings.HasPrefix(l, "redistribute connected") {
				return head + ", " + l
			}
			if strings.HasPrefix(head, "router bgp") && strings.HasPrefix(l, "network ") && strings.Contains(l, ":") != four {
				return head + ", " + l
			}
			if head == "router ospf" && strings.HasPrefix(l, "network ") && slices.Contains(strings.Fields(l), "area") {
				return head + ", " + l
			}
		}
	}
	return ""
}
