// Package checkup looks at a machine as a host of a site: whether its agent has there what it needs. It changes nothing, and needs neither
// the controller nor a running agent.
//
// Invariants:
//   - every check gives at least one finding, good or bad, with the check's stable id;
//   - a check takes a few seconds at most, whatever does not answer.
package checkup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"widecloud/api"
	"widecloud/internal/config"
	"widecloud/internal/hyper"
	"widecloud/internal/wire"
)

// Options says what to look at. What is nil is the machine's own.
type Options struct {
	Config     *config.Agent
	Hypervisor func(context.Context) (hyper.Capabilities, error) // asks libvirtd
	LookPath   func(file string) (string, error)
	Dial       func(ctx context.Context, network, address string) (net.Conn, error)
	Clock      func() (synced bool, off time.Duration, err error)
	Addresses  func() ([]net.Addr, error)
	Now        func() time.Time
}

// patience is how long a check waits for an answer.
const patience = 3 * time.Second

// checkup collects findings.
type checkup struct {
	Options
	out []api.Finding
}

// Run looks at the machine. The findings are in the order of the checks.
func Run(ctx context.Context, o Options) []api.Finding {
	if o.LookPath == nil {
		o.LookPath = exec.LookPath
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Clock == nil {
		o.Clock = clock
	}
	if o.Addresses == nil {
		o.Addresses = net.InterfaceAddrs
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &checkup{Options: o}
	c.identity()
	c.tools()
	if o.Config.Has(api.RoleHypervisor) {
		c.kvm()
		c.libvirtd(ctx)
	}
	if o.Config.Has(api.RoleGateway) {
		c.translator(ctx)
	}
	c.underlay()
	c.controller(ctx)
	c.time()
	c.disks()
	return c.out
}

func (c *checkup) say(id string, s api.Severity, found, advice string) {
	if s == api.SeverityOK {
		advice = ""
	}
	c.out = append(c.out, api.Finding{ID: id, Severity: s, Message: found, Advice: advice})
}

// either says ok, or what else.
func (c *checkup) either(good bool, id string, otherwise api.Severity, found, advice string) {
	if good {
		otherwise = api.SeverityOK
	}
	c.say(id, otherwise, found, advice)
}

// identity looks at the host's certificate.
func (c *checkup) identity() {
	const id = "host.identity"
	path := filepath.Join(c.Config.DataDir, "credential.pem")
	credential, err := wire.LoadCredential(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.say(id, api.SeverityWarn, "this host has not joined site "+c.Config.Site+" yet", "put what wcc host join-token "+c.Config.Host+" prints into a file, name it in join_token, and start the agent")
	case err != nil:
		c.say(id, api.SeverityBad, err.Error(), "join again with a new token; the file is made by the agent")
	case credential.Identity.Site != c.Config.Site || credential.Identity.Host != c.Config.Host:
		c.say(id, api.SeverityBad, fmt.Sprintf("%s is of %s, and the configuration is of host %s of site %s", path, credential.Identity, c.Config.Host, c.Config.Site),
			"each host has a data_dir of its own: it is not copied")
	default:
		left := credential.Ends().Sub(c.Now())
		c.either(left > 30*24*time.Hour, id, api.SeverityBad, fmt.Sprintf("it is %s; its certificate ends at %s", credential.Identity, credential.Ends().UTC().Format(time.RFC3339)),
			"join again with a new token")
	}
}

// tools looks for the programs that the agent starts.
func (c *checkup) tools() {
	needed := []string{"nft", "dnsmasq"}
	if c.Config.Has(api.RoleHypervisor) {
		needed = append(needed, "qemu-img")
	}
	var missing []string
	for _, name := range needed {
		if _, err := c.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		c.say("host.tools", api.SeverityBad, strings.Join(missing, ", ")+" not found", "install them (Debian: nftables, dnsmasq-base, qemu-utils)")
		return
	}
	c.say("host.tools", api.SeverityOK, strings.Join(needed, ", "), "")
}

func (c *checkup) kvm() {
	const id = "host.kvm"
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err == nil {
		f.Close()
		c.say(id, api.SeverityOK, "/dev/kvm can be used", "")
		return
	}
	switch c.Config.Libvirt.Accel {
	case "tcg":
		c.say(id, api.SeverityOK, "it is not asked for: libvirt.accel is tcg", "")
	case "kvm":
		c.say(id, api.SeverityBad, err.Error()+", and libvirt.accel is kvm", "switch virtualisation on in the firmware, load kvm_intel or kvm_amd, or allow TCG")
	default:
		c.say(id, api.SeverityWarn, err.Error()+": VMs run by TCG, which is slow", "switch virtualisation on in the firmware, and load kvm_intel or kvm_amd; in a VM: nested virtualisation")
	}
}

func (c *checkup) libvirtd(ctx context.Context) {
	const id = "host.libvirtd"
	ctx, cancel := context.WithTimeout(ctx, 5*patience) // it tries accelerators
	defer cancel()
	caps, err := c.Hypervisor(ctx)
	if err != nil {
		c.say(id, api.SeverityBad, fmt.Sprintf("%s: %v", c.Config.Libvirt.Socket, err), "start libvirtd, and see libvirt.socket in the agent's configuration")
		return
	}
	found := fmt.Sprintf("%s, %d CPUs, %d MiB", caps.Hypervisor, caps.CPUs, caps.MemoryMiB)
	if why := caps.AccelWhy; why != "" {
		c.either(c.Config.Libvirt.Accel == "tcg", id, api.SeverityWarn, found+"; not KVM: "+why, "see host.kvm")
		return
	}
	c.say(id, api.SeverityOK, found, "")
}

func (c *checkup) translator(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := c.Dial(ctx, "unix", c.Config.Map646.Control)
	if err != nil {
		c.say("host.translator", api.SeverityBad, "map646 does not answer: "+err.Error(), "start it (systemctl start map646), and see map646.control in the agent's configuration")
		return
	}
	conn.Close()
	c.say("host.translator", api.SeverityOK, "map646 answers at "+c.Config.Map646.Control+"; map646 doctor looks closer", "")
}

// underlay looks for the address that carries the networks.
func (c *checkup) underlay() {
	addrs, err := c.Addresses()
	if err != nil {
		c.say("host.vtep", api.SeverityBad, err.Error(), "see ip address")
		return
	}
	there := slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(c.Config.VTEP.AsSlice())
	})
	found := "the address " + c.Config.VTEP.String()
	if !there {
		found += " is on no interface"
	}
	c.either(there, "host.vtep", api.SeverityBad, found, "give it to the interface towards the other hosts, or correct vtep in the agent's configuration")
}

func (c *checkup) controller(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := c.Dial(ctx, "tcp", c.Config.Controller)
	if err != nil {
		c.say("host.controller", api.SeverityBad, err.Error(), "see that the controller runs, and that nothing between drops its outside port")
		return
	}
	conn.Close()
	c.say("host.controller", api.SeverityOK, c.Config.Controller+" is open", "")
}

// time looks at the clock. Nothing here trusts a peer's clock, but certificates and leases are judged by this one.
func (c *checkup) time() {
	const id = "host.time"
	synced, off, err := c.Clock()
	switch {
	case err != nil:
		c.say(id, api.SeverityWarn, err.Error(), "see timedatectl")
	case !synced:
		c.say(id, api.SeverityWarn, "the clock is not synchronised", "run chrony or systemd-timesyncd: certificates and leases are judged by the clock")
	default:
		c.say(id, api.SeverityOK, fmt.Sprintf("the clock is synchronised, to about %v", off.Round(time.Millisecond)), "")
	}
}

// clock asks the kernel (adjtimex(2)).
func clock() (synced bool, off time.Duration, err error) {
	const unsynchronised = 0x40 // STA_UNSYNC
	var t syscall.Timex
	if _, err := syscall.Adjtimex(&t); err != nil {
		return false, 0, fmt.Errorf("ask for the clock's state: %w", err)
	}
	return t.Status&unsynchronised == 0, time.Duration(t.Maxerror) * time.Microsecond, nil
}

func (c *checkup) disks() {
	seen := map[string]bool{}
	for _, d := range []struct {
		id, path string
		reserve  int64
	}{{"host.data_dir", c.Config.DataDir, 64 << 20}, {"host.volumes", c.Config.Libvirt.StateDir, int64(c.Config.Libvirt.Reserve)}} {
		if d.id == "host.volumes" && !c.Config.Has(api.RoleHypervisor) || seen[d.path] {
			continue
		}
		seen[d.path] = true
		var st syscall.Statfs_t
		if err := syscall.Statfs(d.path, &st); err != nil {
			c.say(d.id, api.SeverityWarn, d.path+": "+err.Error(), "the agent makes it when it starts; see that its user may")
			continue
		}
		free, total := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
		found := fmt.Sprintf("%s: %d MiB free of %d", d.path, free>>20, total>>20)
		switch {
		case free <= d.reserve:
			c.say(d.id, api.SeverityBad, found+fmt.Sprintf("; %d MiB are kept, so nothing new has room", d.reserve>>20), "make room, or give it a larger disk")
		case free < d.reserve+total/20:
			c.say(d.id, api.SeverityWarn, found, "make room soon")
		default:
			c.say(d.id, api.SeverityOK, found, "")
		}
	}
}
