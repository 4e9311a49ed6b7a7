package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	kernel
	o      Options
	own    bool // ns is to be closed
	filter *filter

	mu         sync.Mutex
	mobilities map[string]mobility // by their names

	want  Want // its networks: as they are carried
	state state
	seen  observed
	watch *watch // nil: none is needed (yet)
}

// state is what the kernel does not remember for us. It outlives the agent in RunDir.
type state struct {
	l2State
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
	d := &Driver{o: o, kernel: kernel{o.NS, o.Logger}}
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
	d.mobilities = newMobilities(d.kernel, &d.state)
	d.filter = &filter{ns: d.ns, nft: o.Nft, log: o.Logger, file: filepath.Join(o.RunDir, "filter.json"), mobilities: d.mobilities}
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
		if err := step(ctx, w, n, d.mobilities[n.Mobility]); err != nil {
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
		keep[d.mobilities[n.Mobility].device(n)] = true
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
		if ours.MatchString(l.Name) && !keep[l.Name] && slices.Contains(kinds, l.Kind) {
			d.o.Logger.Info("remove device of a network that is no longer wanted", "device", l.Name)
			errs = append(errs, d.ns.DeleteLink(l.Name))
		}
	}
	for _, m := range d.mobilities {
		m.forget(keep)
	}
	return errors.Join(errs...)
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
