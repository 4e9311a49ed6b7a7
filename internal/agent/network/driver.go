package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"widecloud/internal/netio"
)

// Options are what a Driver needs.
type Options struct {
	Logger *slog.Logger // required
	// RunDir holds the leases, pid files and configuration of the networks; required. It is made if need be, and must
	// stay what it is over a restart of the agent. dnsmasq reads there without privilege, so the directories
	// above it must be open to all (mode 0711 at least).
	RunDir      string
	Dnsmasq     string           // path; empty: dnsmasq
	DnsmasqUser string           // that dnsmasq becomes once it has its sockets; empty: dnsmasq
	Nft         string           // path; empty: nft
	NS          *netio.NS        // nil: the namespace of the process. Not closed by the Driver
	Now         func() time.Time // nil: time.Now
}

// Driver makes the networks of one host. It is safe for concurrent use.
type Driver struct {
	o      Options
	ns     *netio.NS
	own    bool // ns is to be closed
	filter *filter

	mu    sync.Mutex
	want  Want // its networks: as they are carried
	state state
	seen  observed
	watch *watch // nil: none is needed (yet)
}

// state is what the kernel does not remember for us. It outlives the agent in RunDir.
type state struct {
	// Word is the controller's last word on where each endpoint is: device suffix -> MAC -> VTEP. What the data path
	// learned since is newer, so only a change of the word counts.
	Word map[string]map[string]string `json:"word"`
	// Carried are the networks as they are carried, in case that what is wanted of one turns bad.
	Carried []Network `json:"carried"`
}

// New makes a driver and changes nothing but RunDir's existence.
func New(o Options) (*Driver, error) {
	if o.Logger == nil || !filepath.IsAbs(o.RunDir) {
		return nil, fmt.Errorf("make network driver: logger and an absolute run_dir are required, have %q", o.RunDir)
	}
	for p, def := range map[*string]string{&o.Dnsmasq: "dnsmasq", &o.DnsmasqUser: "dnsmasq", &o.Nft: "nft"} {
		if *p == "" {
			*p = def
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(o.RunDir, 0o755); err != nil {
		return nil, fmt.Errorf("make network driver: %w", err)
	}
	d := &Driver{o: o, ns: o.NS}
	b, err := os.ReadFile(d.stateFile())
	if err == nil {
		err = json.Unmarshal(b, &d.state)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make network driver: read %s: %w", d.stateFile(), err)
	}
	if d.ns == nil {
		if d.ns, err = netio.CurrentNS(); err != nil {
			return nil, fmt.Errorf("make network driver: %w", err)
		}
		d.own = true
	}
	d.filter = &filter{ns: d.ns, nft: o.Nft, log: o.Logger, file: filepath.Join(o.RunDir, "filter.json")}
	if err := d.filter.open(); err != nil {
		return nil, fmt.Errorf("make network driver: %w", err)
	}
	return d, nil
}

// Apply makes w true. On an error the rest is made true all the same, and a later Apply goes on with what is missing.
// A w that is wrong in what concerns the host (see [Want.Validate]) changes nothing. A network that cannot be carried as w
// wants it harms no other: the error is, or joins, a [*NetworkError] for each fault (see [NetworkErrors]).
func (d *Driver) Apply(ctx context.Context, w Want) error {
	if err := w.Validate(); err != nil {
		return fmt.Errorf("apply networks: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	own, err := d.ownAddrs()
	if err != nil {
		return fmt.Errorf("apply networks: %w", err)
	}
	var faulty []error
	w.Networks, faulty = carry(w, d.state.Carried, own)
	if err = d.apply(ctx, w); err != nil {
		err = fmt.Errorf("apply networks: %w", err)
	}
	return errors.Join(append(faulty, err)...)
}

// ownAddrs are the addresses of the host on devices that are not ours, but for those that every host has, with the devices.
func (d *Driver) ownAddrs() (map[netip.Addr]string, error) {
	list, err := d.ns.AllAddrs()
	if err != nil {
		return nil, err
	}
	own := map[netip.Addr]string{}
	for _, a := range list {
		if !ours.MatchString(a.Link) && !a.Addr.IsLinkLocalUnicast() && !a.Addr.IsLoopback() {
			own[a.Addr] = a.Link
		}
	}
	return own, nil
}

func (d *Driver) apply(ctx context.Context, w Want) error {
	d.want = w
	before, err := json.Marshal(d.state)
	if err != nil {
		return err
	}
	d.state.Carried = w.Networks
	errs := []error{d.removeStale(ctx, w)}
	if len(w.Networks) > 0 {
		// Frames that nothing filters must not pass, not for a moment: the filter comes before the devices.
		if err := d.filter.apply(ctx, w); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, d.hostSettings())
	}
	errs = append(errs, d.watchPorts(w))
	errs = append(errs, d.anycast(w))
	for _, n := range w.Networks {
		step := d.gateway
		if w.Role.Hypervisor {
			step = d.hypervisor
		}
		if err := step(ctx, w, n); err != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", n.Name, err))
		}
	}
	if len(w.Networks) == 0 {
		errs = append(errs, d.filter.apply(ctx, w))
	}
	after, err := json.Marshal(d.state)
	if err == nil && string(after) != string(before) {
		err = replaceFile(d.stateFile(), after)
	}
	return errors.Join(append(errs, err)...)
}

// Bridge is the device that VMs of a network plug into; empty while the host does not carry the network.
func (d *Driver) Bridge(networkUID string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.network(networkUID); err != nil || !d.want.Role.Hypervisor {
		return ""
	}
	return BridgeName(networkUID)
}

// Close ends the driver and leaves everything running: the agent may come back.
func (d *Driver) Close(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watch.end()
	d.watch = nil
	if d.own {
		return d.ns.Close()
	}
	return nil
}

// Remove takes down all that the driver made, and RunDir with it. Forwarding stays as it is: others may need it.
func (d *Driver) Remove(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.apply(ctx, Want{})
	if err == nil {
		d.state = state{}
		err = os.RemoveAll(d.o.RunDir)
	}
	if err != nil {
		return fmt.Errorf("remove networks: %w", err)
	}
	return nil
}

// hostSettings makes the host a router and keeps bridged packets out of the IP hooks of netfilter.
func (d *Driver) hostSettings() error {
	return errors.Join(
		d.sysctl("net/ipv6/conf/all/forwarding", "1"),
		d.sysctlIfThere("net/bridge/bridge-nf-call-iptables", "0"),
		d.sysctlIfThere("net/bridge/bridge-nf-call-ip6tables", "0"),
		d.sysctlIfThere("net/bridge/bridge-nf-call-arptables", "0"))
}

// anycast has a gateway take packets for the gateways' common address, whether or not another device has it (the
// translator's, so that the way out moves together with the translation: docs/map646.md). It is on no device of ours:
// the routing daemon would prefer lo's to the translator's, and not announce it.
func (d *Driver) anycast(w Want) error {
	var want []netip.Addr
	if w.Role.Gateway && len(w.Networks) > 0 {
		want = []netip.Addr{w.AnycastVTEP}
	}
	return d.ns.SetLocals(anycastProtocol, want)
}

// anycastProtocol marks the route of the common address (rtnetlink(7): the numbers above RTPROT_STATIC are for whoever
// wants one; map646 has 246).
const anycastProtocol = 247

// removeStale takes down the devices, rules, routes, daemons and files of networks that are not in w.
func (d *Driver) removeStale(ctx context.Context, w Want) error {
	keep := map[string]bool{} // devices, and suffixes for what is not a device
	tables := map[int]bool{}  // of answers
	for _, n := range w.Networks {
		keep[VXLANName(n.UID)] = true
		tables[n.answerTable()] = w.Role.Hypervisor
		if w.Role.Hypervisor {
			keep[BridgeName(n.UID)], keep[short(n.UID)] = true, true
		}
	}
	var errs []error
	dirs, err := filepath.Glob(filepath.Join(d.o.RunDir, "??????????"))
	errs = append(errs, err)
	for _, dir := range dirs {
		if !keep[filepath.Base(dir)] && ours.MatchString("br-"+filepath.Base(dir)) {
			errs = append(errs, d.stopDnsmasq(ctx, dir, "dhcp"), d.stopDnsmasq(ctx, dir, "dns"), os.RemoveAll(dir))
		}
	}
	rules, err := d.ns.LinkRules(rulePriority)
	errs = append(errs, err)
	answers, err := d.ns.LinkRules(answerPriority)
	errs = append(errs, err)
	for _, r := range slices.Concat(rules, answers) {
		if r.Link == "lo" && !tables[r.Table] || ours.MatchString(r.Link) && !keep[r.Link] {
			errs = append(errs, d.ns.DelLinkRule(r), d.flushTable(r.Table))
		}
	}
	links, err := d.ns.Links()
	errs = append(errs, err)
	for _, l := range links {
		if ours.MatchString(l.Name) && !keep[l.Name] && (l.Kind == "bridge" || l.Kind == "vxlan") {
			d.o.Logger.Info("remove device of a network that is no longer wanted", "device", l.Name)
			errs = append(errs, d.ns.DeleteLink(l.Name))
		}
	}
	for suffix := range d.state.Word {
		if !keep["vx-"+suffix] {
			delete(d.state.Word, suffix)
		}
	}
	return errors.Join(errs...)
}

func (d *Driver) flushTable(table int) error {
	routes, err := d.ns.Routes(table)
	for _, r := range routes {
		if e := d.ns.DelRoute(r); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// device makes sure of a device's description, MTU and addresses, and that it is up. Addresses come with the flag
// whether their prefix is a route too.
func (d *Driver) device(name, alias string, mtu int, addrs map[netip.Prefix]bool) error {
	if err := d.ns.SetAlias(name, alias); err != nil {
		return err
	}
	l, err := d.ns.Link(name)
	if err != nil {
		return err
	}
	if l.MTU != mtu {
		if err := d.ns.SetMTU(name, mtu); err != nil {
			return err
		}
	}
	have, err := d.ns.Addrs(name)
	if err != nil {
		return err
	}
	for _, p := range have {
		if _, ok := addrs[p]; !ok {
			if err := d.ns.DelAddr(name, p); err != nil {
				return err
			}
		}
	}
	for p, route := range addrs {
		if slices.Contains(have, p) {
			continue
		}
		add := d.ns.AddAddrOnly
		if route {
			add = d.ns.AddAddr
		}
		if err := add(name, p); err != nil {
			return err
		}
	}
	if !l.Up {
		return d.ns.SetUp(name)
	}
	return nil
}

// vxlan makes sure of a network's VXLAN device. One that is wrong in what cannot be changed is made anew.
func (d *Driver) vxlan(n Network, local netip.Addr, mac net.HardwareAddr) error {
	name := VXLANName(n.UID)
	v, err := d.ns.VXLAN(name)
	gateway := mac != nil
	switch {
	case err == nil && v.VNI == n.VNI && v.Local == local && (v.MAC.String() == GatewayMAC.String()) == gateway:
		return nil
	case err == nil:
		d.o.Logger.Info("make VXLAN device anew", "device", name, "network", n.Name, "vni", n.VNI, "was", v.VNI)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := d.ns.DeleteLink(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// A new device knows no endpoint: whatever the controller says of them is news.
	delete(d.state.Word, short(n.UID))
	return d.ns.AddVXLAN(netio.VXLANSpec{Name: name, VNI: n.VNI, Local: local, MAC: mac, MTU: n.mtu()})
}

// forward makes sure of where the VXLAN device sends to.
func (d *Driver) forward(w Want, n Network) error {
	name := VXLANName(n.UID)
	have, flood, err := d.ns.FDB(name)
	if err != nil {
		return err
	}
	for _, a := range n.Flood {
		if a != w.VTEP && !slices.Contains(flood, a) {
			if err := d.ns.AddFlood(name, a); err != nil {
				return err
			}
			flood = append(flood, a) // the list may name it twice
		}
	}
	for _, a := range flood {
		if a == w.VTEP || !slices.Contains(n.Flood, a) {
			if err := d.ns.DelFlood(name, a); err != nil {
				return err
			}
		}
	}

	entries := map[string]netio.FDBEntry{}
	for _, e := range have {
		entries[e.MAC.String()] = e
	}
	if e, ok := entries[GatewayMAC.String()]; !w.Role.Gateway && w.AnycastVTEP.IsValid() {
		if !ok || e.VTEP != w.AnycastVTEP || !e.Static {
			if err := d.ns.SetFDB(name, netio.FDBEntry{MAC: GatewayMAC, VTEP: w.AnycastVTEP, Static: true}); err != nil {
				return err
			}
		}
		delete(entries, GatewayMAC.String())
	} else if ok && !e.Static { // learned from another gateway; never sent to
		delete(entries, GatewayMAC.String())
	}
	// A gateway learns the routers' common MAC from every hypervisor in turn, and never sends to it.
	delete(entries, AnycastMAC.String())
	said := d.state.Word[short(n.UID)]
	words := map[string]string{}
	for _, e := range n.Endpoints {
		mac, word := e.MAC.String(), ""
		if e.VTEP.IsValid() && e.VTEP != w.VTEP {
			word = e.VTEP.String()
		}
		words[mac] = word
		cur, there := entries[mac]
		delete(entries, mac)
		last, known := said[mac]
		news := !known || last != word
		switch {
		case word != "" && (!there || news && cur.VTEP != e.VTEP):
			err = d.ns.SetFDB(name, netio.FDBEntry{MAC: e.MAC, VTEP: e.VTEP})
		case word == "" && there && news:
			err = d.ns.DelFDB(name, cur)
		}
		if err != nil {
			return err
		}
	}
	for vtep := range claimOf(n).vteps { // a gateway elsewhere may be a hypervisor, too
		delete(entries, edgeMAC(vtep).String())
	}
	// What is left was learned of MACs that are nobody's any more, or set for VMs that are gone.
	for _, e := range entries {
		if err := d.ns.DelFDB(name, e); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if d.state.Word == nil {
		d.state.Word = map[string]map[string]string{}
	}
	d.state.Word[short(n.UID)] = words
	return nil
}

// neighbours makes the permanent entries of a device those of want, and no others.
func (d *Driver) neighbours(name string, want map[netip.Addr]net.HardwareAddr) error {
	have, err := d.ns.Neighbours(name)
	if err != nil {
		return err
	}
	right := map[netip.Addr]bool{}
	for _, e := range have {
		mac, wanted := want[e.Addr]
		switch {
		case wanted && e.Permanent && e.MAC.String() == mac.String():
			right[e.Addr] = true
		case !wanted && e.Permanent:
			if err := d.ns.DelNeighbour(name, e.Addr); err != nil {
				return err
			}
		}
	}
	for a, mac := range want {
		if !right[a] {
			if err := d.ns.SetNeighbour(name, a, mac); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Driver) sysctl(key, value string) error {
	if have, err := d.ns.GetSysctl(key); err != nil || have == value {
		return err
	}
	return d.ns.Sysctl(key, value)
}

func (d *Driver) sysctlIfThere(key, value string) error {
	if err := d.sysctl(key, value); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d *Driver) stateFile() string { return filepath.Join(d.o.RunDir, "state.json") }

// replaceFile writes a file so that readers, also those after a power cut, see the old one or the new one.
func replaceFile(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()) // the mode whatever the umask
	if err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
