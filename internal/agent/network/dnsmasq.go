package network

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// leaseTime of DHCPv4. A VM that migrated renews at its new host at half of it.
	leaseTime, leaseText = time.Hour, "1h"
	// The router's life is the longest there is (RFC 4861 §6.2.1), since it does not depend on dnsmasq's.
	raInterval, routerLifetime = 60, 9000
	prefixLifetime             = "24h"
	// stopTime is how long a dnsmasq is given to end before it is killed.
	stopTime = 5 * time.Second
)

// dnsmasqConfs renders a network's configurations, all but what changes with its VMs: one dnsmasq for RA and DHCP, one
// for names. They are two because networks of different owners may have the same private IPv4 prefix: DHCP's
// sockets are bound to the device, those for names to an address, which must be a host's only once.
func dnsmasqConfs(n Network, dir, username string) map[string][]byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	begin := func(kind string) {
		b.Reset()
		line("# Network %s, VNI %d. Written by the agent; a change is overwritten.", n.Name, n.VNI)
		line("user=%s", username)
		line("pid-file=%s/%s.pid", dir, kind)
		line("log-facility=%s/%s.log", dir, kind)
	}
	br := BridgeName(n.UID)

	begin("dhcp")
	line("interface=%s", br)
	line("except-interface=lo")
	line("bind-dynamic")
	line("port=0")
	line("# The router is this host, as fe80::1, at every host.")
	line("enable-ra")
	line("quiet-ra")
	line("dhcp-range=%s,ra-only,64,%s", n.Prefix.Addr(), prefixLifetime)
	line("ra-param=%s,mtu:%d,%d,%d", br, n.mtu(), raInterval, routerLifetime)
	line("dhcp-option=option6:dns-server,[%s]", n.router6())
	if n.IPv4.IsValid() {
		line("# Addresses by MAC only, so that they are the same at every host; and a lease that another host gave holds here.")
		line("dhcp-range=%s,static,%s,%s", n.IPv4.Addr(), net.IP(net.CIDRMask(n.IPv4.Bits(), 32)), leaseText)
		line("dhcp-authoritative")
		line("quiet-dhcp")
		line("no-ping")
		line("dhcp-hostsfile=%s/hosts", dir)
		line("dhcp-leasefile=%s/leases", dir)
		line("dhcp-option=option:mtu,%d", n.mtu())
		line("# Private IPv4 is not routed.")
		line("dhcp-option=option:router")
	}
	dhcp := bytes.Clone(b.Bytes())

	begin("dns")
	line("listen-address=%s", n.router6())
	line("bind-interfaces")
	line("# Names of the network's own VMs, and no other's: there is no upstream.")
	line("no-resolv")
	line("no-hosts")
	line("addn-hosts=%s/names", dir)
	line("local=/internal/")
	return map[string][]byte{"dhcp": dhcp, "dns": b.Bytes()}
}

// dnsmasqHosts renders the DHCP reservations and the names.
func dnsmasqHosts(n Network) (hosts, names []byte) {
	var h, a bytes.Buffer
	endpoints := slices.Clone(n.Endpoints)
	slices.SortFunc(endpoints, func(a, b Endpoint) int { return bytes.Compare(a.MAC, b.MAC) })
	host := map[string]int{}
	for _, e := range endpoints {
		host[e.Hostname]++
	}
	for _, e := range endpoints {
		if e.IPv4.IsValid() {
			fmt.Fprintf(&h, "%s,%s", e.MAC, e.IPv4)
			// dnsmasq takes a name for one host only and would refuse the second's line.
			if e.Hostname != "" && host[e.Hostname] == 1 {
				fmt.Fprintf(&h, ",%s", e.Hostname)
			}
			fmt.Fprintln(&h)
		}
		if e.Hostname != "" {
			for _, ip := range []netip.Addr{e.IPv6, e.IPv4} {
				if ip.IsValid() {
					fmt.Fprintf(&a, "%s %s.%s.internal %s\n", ip, e.Hostname, n.Name, e.Hostname)
				}
			}
		}
	}
	return h.Bytes(), a.Bytes()
}

// dnsmasq makes sure that the network's dnsmasqs run with the right configuration: one that does is left alone, and told
// to read its files again if VMs came or went.
func (d *Driver) dnsmasq(ctx context.Context, n Network) error {
	dir := filepath.Join(d.o.RunDir, short(n.UID))
	if err := d.readable(dir); err != nil {
		return err
	}
	hosts, names := dnsmasqHosts(n)
	changed := map[string]bool{}
	for kind, f := range map[string]struct {
		name    string
		content []byte
	}{"dhcp": {"hosts", hosts}, "dns": {"names", names}} {
		path := filepath.Join(dir, f.name)
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, f.content) {
			continue
		}
		if err := replaceFile(path, f.content); err != nil {
			return err
		}
		changed[kind] = true
	}
	var errs []error
	for kind, conf := range dnsmasqConfs(n, dir, d.o.DnsmasqUser) {
		if err := d.daemon(ctx, n, dir, kind, conf, changed[kind]); err != nil {
			errs = append(errs, fmt.Errorf("dnsmasq for %s: %w", kind, err))
		}
	}
	return errors.Join(errs...)
}

func (d *Driver) daemon(ctx context.Context, n Network, dir, kind string, conf []byte, changed bool) error {
	pid, err := d.dnsmasqPID(dir, kind)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, kind+".conf")
	if have, err := os.ReadFile(path); pid != 0 && err == nil && bytes.Equal(have, conf) {
		if changed {
			return syscall.Kill(pid, syscall.SIGHUP)
		}
		return nil
	}
	if err := d.stopDnsmasq(ctx, dir, kind); err != nil {
		return err
	}
	if err := replaceFile(path, conf); err != nil {
		return err
	}
	d.o.Logger.Info("start dnsmasq", "network", n.Name, "device", BridgeName(n.UID), "for", kind)
	// It goes to the background by itself once it has its sockets, away from the agent's session, so it outlives
	// the agent.
	cmd := exec.CommandContext(ctx, d.o.Dnsmasq, "--conf-file="+path)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = d.ns.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("start: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// readable makes a network's directory, and makes sure that dnsmasq can read there when it is no longer root.
func (d *Driver) readable(dir string) error {
	if _, err := user.Lookup(d.o.DnsmasqUser); err != nil {
		return fmt.Errorf("dnsmasq_user: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for up := filepath.Dir(dir); ; up = filepath.Dir(up) {
		st, err := os.Stat(up)
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("run_dir: %s has mode %04o, so dnsmasq as user %s cannot read its files in %s", up, st.Mode().Perm(), d.o.DnsmasqUser, dir)
		}
		if up == filepath.Dir(up) {
			return nil
		}
	}
}

// dnsmasqPID returns the process that serves dir, of a kind (dhcp, dns), or 0. A number in a pid file proves nothing by itself: the process must
// have our configuration on its command line, and must be in our network namespace.
func (d *Driver) dnsmasqPID(dir, kind string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dir, kind+".pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, nil // torn or empty: whoever wrote it did not live to finish
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(line, []byte("--conf-file="+filepath.Join(dir, kind+".conf")+"\x00")) {
		return 0, nil
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return 0, nil
	}
	var mine string
	if err := d.ns.Do(func() (err error) { mine, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		return 0, err
	}
	if mine != theirs {
		return 0, nil
	}
	return pid, nil
}

// stopDnsmasq ends the process of a kind that serves dir, if there is one, and waits for its end: the next needs its sockets.
func (d *Driver) stopDnsmasq(ctx context.Context, dir, kind string) error {
	pid, err := d.dnsmasqPID(dir, kind)
	if err != nil || pid == 0 {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop dnsmasq: %w", err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for waited := time.Duration(0); ; waited += 10 * time.Millisecond {
		if pid, err = d.dnsmasqPID(dir, kind); err != nil || pid == 0 {
			return err
		}
		if waited >= stopTime {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stop dnsmasq: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop dnsmasq %d: %w", pid, ctx.Err())
		case <-tick.C:
		}
	}
}

// Leases are the IPv4 addresses that this host's dnsmasqs have leased, by MAC. A VM that moved here shows up when it
// renews; one that moved away stays until its lease ends.
func (d *Driver) Leases(context.Context) ([]Lease, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	files, err := filepath.Glob(filepath.Join(d.o.RunDir, "??????????", "leases"))
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	var leases []Lease
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("list leases: %w", err)
		}
		leases = append(leases, parseLeases(b)...)
	}
	slices.SortFunc(leases, func(a, b Lease) int {
		return cmp.Or(bytes.Compare(a.MAC, b.MAC), a.IPv4.Compare(b.IPv4))
	})
	return leases, nil
}

// parseLeases reads dnsmasq's lease file: "EXPIRY MAC ADDRESS NAME CLIENT-ID", "*" for no name, and lines for DHCPv6 that
// are passed over. A line that is cut off (dnsmasq is writing) is passed over too.
func parseLeases(b []byte) []Lease {
	var leases []Lease
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 5 || !strings.HasSuffix(line, "\n") {
			continue
		}
		expiry, err1 := strconv.ParseInt(f[0], 10, 64)
		mac, err2 := net.ParseMAC(f[1])
		ip, err3 := netip.ParseAddr(f[2])
		if err1 != nil || err2 != nil || err3 != nil || !ip.Is4() {
			continue
		}
		l := Lease{MAC: mac, IPv4: ip}
		if expiry != 0 {
			l.Expires = time.Unix(expiry, 0).UTC()
		}
		if f[3] != "*" {
			l.Hostname = f[3]
		}
		leases = append(leases, l)
	}
	return leases
}
