package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/agent/network"
	"widecloud/internal/agent/usage"
	"widecloud/internal/hyper"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// Volumes keeps the host's base images and disks; internal/volume is the real one.
type Volumes interface {
	// Bases lists the base images kept here, by their digests.
	Bases(ctx context.Context) ([]Base, error)
	// Import takes a base image in and checks it against its digest.
	Import(ctx context.Context, digest, format string, content io.Reader) error
	// Sweep removes the base images that no disk is over and that keep does not want. keep must not call Volumes.
	Sweep(ctx context.Context, keep func(digest string) bool) error
	// Create makes a VM's root disk over a base, or finds it there; a smaller one is made larger. sizeMiB 0 is the base's own size.
	// No guest has it.
	Create(ctx context.Context, vm, base string, sizeMiB int64) (hyper.Disk, error)
	// CreateDisk makes a disk of the VM beside the root disk, or finds it there; a smaller one is made larger. No guest has it.
	CreateDisk(ctx context.Context, vm, name string, sizeMiB int64) (hyper.Disk, error)
	// RemoveDisk removes a disk of the VM beside the root disk; nil when there is none. No guest has it.
	RemoveDisk(ctx context.Context, vm, name string) error
	// MoveDisk makes a disk of one owner (a VM or a volume) another one's, whole or not at all; nothing is changed when the first has
	// none of that name. there tells whether the second one has it then. No guest has either. An error when both have one.
	MoveDisk(ctx context.Context, from, name, to, as string) (there bool, err error)
	// Seed makes the VM's cloud-init disk, or finds it there.
	Seed(ctx context.Context, order wire.VMOrder) (hyper.Disk, error)
	// Disks are the VM's disks that are here, the root disk first. Guests may have them.
	Disks(ctx context.Context, vm string) ([]wire.DiskReport, error)
	// Export opens a disk, which no domain uses, for sending it elsewhere.
	Export(ctx context.Context, d hyper.Disk) (Export, error)
	// Fill makes a disk, which Create or CreateDisk has made, what an Export has sent, and returns the same digest. The disk is as it was
	// until all has come and is right.
	Fill(ctx context.Context, d hyper.Disk, r io.Reader) (digest string, err error)
	// NewMemory is where so many MiB of the VM's memory are to be written; what was there of it is gone. volume.ErrNoSpace.
	NewMemory(ctx context.Context, vm string, mebibytes int64) (path string, err error)
	// Memory is where the VM's saved memory is, whole or not; volume.ErrNotFound.
	Memory(ctx context.Context, vm string) (path string, err error)
	// KeepMemory makes memory that is whole the VM's saved one, and seals it with the disks. It may be repeated.
	KeepMemory(ctx context.Context, vm string) (seal string, err error)
	// MemorySeal is another one than KeepMemory's once the saved memory or a disk has been changed. volume.ErrNotFound: one is gone.
	MemorySeal(ctx context.Context, vm string) (seal string, err error)
	// OpenMemory opens the VM's saved memory, and tells how many bytes it has; volume.ErrNotFound.
	OpenMemory(ctx context.Context, vm string) (io.ReadCloser, int64, error)
	// FillMemory writes a head and so many bytes of r as memory that KeepMemory can keep, and returns the SHA-256 of the latter.
	FillMemory(ctx context.Context, vm string, head []byte, n int64, r io.Reader) (digest string, err error)
	// RemoveMemory removes the VM's saved memory; nil when there is none.
	RemoveMemory(ctx context.Context, vm string) error
	// Remove removes the VM's disks, seed and saved memory; nil when there are none.
	Remove(ctx context.Context, vm string) error
}

// Base is a base image.
type Base struct {
	Digest string
	Bytes  int64 // of its file
}

// Networks carries the networks; agent/network is the real one.
type Networks interface {
	Apply(ctx context.Context, w network.Want) error
	Bridge(networkUID string) string
	// Seen gives the addresses that the host has seen a VM with, by its MAC.
	Seen(ctx context.Context, networkUID string, mac net.HardwareAddr) ([]network.Sighting, error)
}

// Translator drives the map646 of a gateway.
type Translator interface {
	// Apply makes its table what the mappings say.
	Apply(ctx context.Context, pref64 netip.Prefix, mappings []wire.Mapping) error
	Report(ctx context.Context) wire.TranslatorReport
}

// Controller is the way to the site's controller while it is reached.
type Controller interface {
	// Report sends what is seen.
	Report(ctx context.Context, r wire.HostReport) error
	// Image opens an image by its digest.
	Image(ctx context.Context, digest string) (format string, content io.ReadCloser, err error)
	// Channel opens a stream of an outgoing migration.
	Channel(ctx context.Context, h wire.ChannelHeader) (net.Conn, error)
}

// Options are what an agent is made of.
type Options struct {
	Site, Host  string
	Roles       []api.HostRole
	VTEP        netip.Addr
	Capacity    api.Resources // zero fields: what the hypervisor and the file system say
	Store       store.Store   // the agent's own
	Hypervisor  hyper.Driver  // nil on a pure gateway
	Volumes     Volumes       // nil on a pure gateway
	Networks    Networks
	Translator  Translator // nil unless a gateway
	Controller  Controller
	Logger      *slog.Logger
	Guarded     []netip.Prefix // no network and no service address may touch them, beside the host's own and the controller's
	Boot        string         // differs at every start
	ReportEvery time.Duration  // default 5 s
	StopGrace   time.Duration  // from the ACPI request to the hard stop; default 30 s
	ImageKept   time.Duration  // a base image that no order names is removed after so long; default 24 h
	// Failpoint, when set, is called at each named point of a migration; tests kill the process there.
	Failpoint func(name string)
}

// Agent is a host's agent.
type Agent struct {
	o    Options
	log  *slog.Logger
	wake chan struct{} // something changed: reconcile and report

	used usage.History

	keeping sync.Mutex // held while volumes that no VM has are made what is ordered
	files   sync.Mutex // held while a volume's file goes from one to another, is made or removed

	setting sync.Mutex         // held while orders are taken: of two, the older ones must not be the last to be kept
	parts   []wire.HostState   // of orders that come in parts, until all are there; guarded by setting, as what follows
	changes []wire.StateChange // the same of changes
	inForce wire.Orders
	stored  *wire.Orders // what the store has; nil: it has to be looked at

	mu         sync.Mutex
	state      wire.HostState
	controller netip.Addr            // where it was reached last
	kept       []wire.RefusedMapping // mappings of the state that this agent keeps from the translator
	vms        map[string]*vm
	refused    map[string]string // why an order of the state is not taken, by VM
	applied    int64
	unread     []error          // entries of the orders that are in force and cannot be read
	volumes    map[string]*kept // by UID
	netErr     string
	trErr      string
	caps       hyper.Capabilities
}

// New makes an agent from its options and what its store remembers.
func New(ctx context.Context, o Options) (*Agent, error) {
	if o.ReportEvery == 0 {
		o.ReportEvery = 5 * time.Second
	}
	if o.StopGrace == 0 {
		o.StopGrace = 30 * time.Second
	}
	if o.ImageKept == 0 {
		o.ImageKept = 24 * time.Hour
	}
	if o.Failpoint == nil {
		o.Failpoint = func(string) {}
	}
	a := &Agent{o: o, log: o.Logger.With("site", o.Site, "host", o.Host), wake: make(chan struct{}, 1), vms: map[string]*vm{}, refused: map[string]string{}, volumes: map[string]*kept{}}
	if err := a.load(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// Run makes the desired state true until ctx ends. The VMs run on after it.
func (a *Agent) Run(ctx context.Context) error {
	var events <-chan hyper.Event
	if a.o.Hypervisor != nil {
		caps, err := a.o.Hypervisor.Capabilities(ctx)
		if err != nil {
			return fmt.Errorf("ask the hypervisor what it can do: %w", err)
		}
		a.mu.Lock()
		a.caps = caps
		a.mu.Unlock()
		a.log.Info("hypervisor is ready", "hypervisor", caps.Hypervisor, "accel", caps.Accel, "accel_why", caps.AccelWhy, "cpu", caps.CPUModel)
		if events, err = a.o.Hypervisor.Watch(ctx); err != nil {
			return fmt.Errorf("watch the hypervisor: %w", err)
		}
	}
	var work sync.WaitGroup
	defer work.Wait()
	report := make(chan struct{}, 1)
	work.Go(func() { a.reportLoop(ctx, report) })
	if a.o.Hypervisor != nil {
		work.Go(func() { a.usageLoop(ctx) })
	}
	tick := time.NewTicker(a.o.ReportEvery)
	defer tick.Stop()
	images := imageSweep{unused: map[string]time.Time{}}
	for {
		a.reconcile(ctx, &work)
		a.sweepImages(ctx, &images)
		select {
		case report <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-tick.C:
		case _, ok := <-events:
			if !ok {
				events = nil
			}
		}
	}
}

// poke makes Run look again.
func (a *Agent) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// reconcile applies networks and translator, then sets every VM that is not busy to work.
func (a *Agent) reconcile(ctx context.Context, work *sync.WaitGroup) {
	a.orders(ctx)
	a.mu.Lock()
	state := a.state
	a.mu.Unlock()
	netErr := errText(a.applyNetworks(ctx))
	trErr := ""
	if a.o.Translator != nil && state.Pref64.IsValid() {
		mappings, refused := a.guardMappings(state.Mappings)
		trErr = errText(a.o.Translator.Apply(ctx, state.Pref64, mappings))
		a.mu.Lock()
		a.kept = refused
		a.mu.Unlock()
	}
	a.mu.Lock()
	if netErr != a.netErr && netErr != "" {
		a.log.Error("apply networks", "err", netErr)
	}
	a.netErr, a.trErr = netErr, trErr
	if netErr == "" && trErr == "" {
		a.applied = state.Revision
	}
	worked := make(map[*vm]int, len(a.vms))
	for _, v := range a.vms {
		worked[v] = v.worked
	}
	a.mu.Unlock()
	if a.o.Hypervisor == nil {
		return
	}
	a.keepVolumes(ctx, work, state.Volumes)
	domains, err := a.domains(ctx)
	if err != nil {
		a.log.Error("list domains", "err", err)
		return
	}
	for v, before := range worked {
		if !v.busy.TryLock() {
			continue // at work; it pokes when it is done
		}
		if a.hasWorked(v) != before { // since the domains were listed
			v.busy.Unlock()
			a.poke()
			continue
		}
		if !a.needsWork(v, domains[v.uid]) {
			changes, err := a.diskChanges(ctx, v, domains[v.uid])
			if len(changes) == 0 {
				a.noteDisks(v, err)
				v.busy.Unlock()
				continue
			}
			work.Go(func() {
				defer v.busy.Unlock()
				a.changeDisks(ctx, v, changes)
			})
			continue
		}
		work.Go(func() {
			defer v.busy.Unlock()
			if a.makeTrue(ctx, v) {
				a.poke()
			}
		})
	}
}

func (a *Agent) hasWorked(v *vm) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return v.worked
}

func (a *Agent) domains(ctx context.Context) (map[string]hyper.Domain, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	list, err := a.o.Hypervisor.Domains(ctx)
	if err != nil {
		return nil, err
	}
	m := make(map[string]hyper.Domain, len(list))
	for _, d := range list {
		m[d.VM] = d
	}
	return m, nil
}

// applyNetworks gives the driver the networks of the state and of the incoming migrations.
func (a *Agent) applyNetworks(ctx context.Context) error {
	a.mu.Lock()
	w := network.Want{VTEP: a.o.VTEP, AnycastVTEP: a.state.AnycastVTEP}
	for _, r := range a.o.Roles {
		switch r {
		case api.RoleHypervisor:
			w.Role.Hypervisor = true
		case api.RoleGateway:
			w.Role.Gateway = true
		}
	}
	orders := map[string]wire.NetworkOrder{}
	leaving := map[string]bool{} // VMs that migrate away
	for _, v := range a.vms {
		leaving[v.uid] = v.record.Job != "" && v.record.Role == source
		if n := v.record.Network; n != nil && v.record.Order.Run != wire.RunGone {
			orders[n.UID] = *n
		}
	}
	for _, n := range a.state.Networks {
		orders[n.UID] = n
	}
	a.mu.Unlock()
	w.Reserved = a.guarded()
	var errs []error
	for _, o := range slices.SortedFunc(maps.Values(orders), a.byTrust) {
		n, bad := networkOf(o)
		for i, e := range n.Endpoints {
			n.Endpoints[i].Leaving = leaving[e.VM]
		}
		w.Networks = append(w.Networks, n)
		for _, err := range bad {
			errs = append(errs, &network.NetworkError{UID: n.UID, Name: n.Name, Carried: true, Err: err})
		}
	}
	return errors.Join(append(errs, a.o.Networks.Apply(ctx, w))...)
}

// byTrust puts this site's own networks before those that peers bring: of two that exclude each other the first is carried.
func (a *Agent) byTrust(x, y wire.NetworkOrder) int {
	guest := func(n wire.NetworkOrder) int {
		if n.Home == a.o.Site {
			return 0
		}
		return 1
	}
	return cmp.Or(guest(x)-guest(y), cmp.Compare(x.UID, y.UID))
}

// carry applies the networks, and says why one of them is not carried. What is wrong with others is reported, and harms it not.
func (a *Agent) carry(ctx context.Context, uid string) error {
	faults, err := network.NetworkErrors(a.applyNetworks(ctx))
	for _, f := range faults {
		if f.UID == uid && !f.Carried {
			err = errors.Join(err, f)
		}
	}
	return err
}

// networkOf is an order as the driver wants it, without the endpoints and flood addresses that are bad, and an error for each
// of these. A network that is bad itself is the driver's to leave out: it may carry it already.
func networkOf(n wire.NetworkOrder) (network.Network, []error) {
	n, bad := n.Sound("orders")
	out := network.Network{Spec: n.Spec, Flood: n.Flood}
	for _, e := range n.Endpoints {
		mac, err := net.ParseMAC(e.MAC)
		if err != nil {
			bad = append(bad, fmt.Errorf("endpoint of VM %s: mac: %w", e.VM, err))
			continue
		}
		out.Endpoints = append(out.Endpoints, network.Endpoint{VM: e.VM, MAC: mac, IPv6: e.IPv6, IPv4: e.IPv4, VTEP: e.VTEP, Hostname: e.Hostname})
	}
	return out, bad
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
