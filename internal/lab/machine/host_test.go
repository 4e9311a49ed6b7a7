package machine_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"widecloud/internal/lab/image"
	"widecloud/internal/lab/machine"
	"widecloud/internal/netio"
)

const domainXML = `<domain type='qemu'>
  <name>web1</name>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>Nehalem</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/var/lib/web1.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/var/lib/seed.iso'/><target dev='vdb' bus='virtio'/><readonly/></disk>
    <interface type='bridge'><mac address='02:57:43:01:00:01'/><source bridge='br0'/><model type='virtio'/><rom enabled='no'/></interface>
    <serial type='file'><source path='/var/lib/console.log'/></serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
`

// httpIn is a client whose connections begin in the node.
func httpIn(n *machine.Node) *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = n.Do(func() (err error) {
				d := net.Dialer{Timeout: 300 * time.Millisecond} // or waiting for a neighbour would be measured
				c, err = d.DialContext(ctx, network, addr)
				return err
			})
			return c, err
		},
	}}
}

func fetch(t *testing.T, c *http.Client, method, url string) string {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	must(t, err)
	r, err := c.Do(req)
	must(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	must(t, err)
	if r.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s: %s", method, url, r.Status, b)
	}
	return strings.TrimSpace(string(b))
}

// TestTinyGuestOnHost is the way of an ordinary VM: libvirtd and QEMU on a
// virtual host, an image with its own boot loader, a seed, RA and DHCP.
func TestTinyGuestOnHost(t *testing.T) {
	image, err := image.Tiny(t.Context(), image.Options{})
	must(t, err)
	l := open(t)
	start := time.Now()
	h, err := l.AddHost(machine.NodeOptions{Name: "h1"})
	must(t, err)
	t.Logf("figure lab.host_seconds %.2f s", time.Since(start).Seconds())
	if c, err := net.Dial("unix", h.LibvirtSocket()); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	must(t, h.AddBridge(netio.BridgeSpec{Name: "br0"}), h.Setup(func(ns *netio.NS) error {
		for _, p := range []string{"2001:db8:1::1/64", "10.1.0.1/24"} {
			if err := ns.AddAddr("br0", netip.MustParsePrefix(p)); err != nil {
				return err
			}
		}
		return nil
	}))
	_, err = h.Start(machine.ProcessOptions{Name: "dnsmasq", Boot: true, Args: []string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
		"--interface=br0", "--bind-interfaces", "--enable-ra", "--dhcp-range=2001:db8:1::,ra-only", "--dhcp-range=10.1.0.10,10.1.0.20,255.255.255.0,1h",
		"--dhcp-option=option:mtu,1430", "--dhcp-leasefile=/run/leases", "--pid-file=/run/dnsmasq.pid", "--user=root"}})
	must(t, err)
	must(t, h.WriteFile("/var/lib/seed/meta-data", []byte("instance-id: i-1\nlocal-hostname: web1\n")),
		h.WriteFile("/var/lib/seed/user-data", []byte("#cloud-config\nssh_authorized_keys:\n  - ssh-ed25519 AAAA demo\n")),
		h.WriteFile("/var/lib/web1.xml", []byte(domainXML)))
	sh(t, h.Node, "genisoimage -quiet -V cidata -J -r -o /var/lib/seed.iso /var/lib/seed && qemu-img create -q -f qcow2 -b "+image+" -F qcow2 /var/lib/web1.qcow2")

	virsh := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := h.Virsh(ctx, args...)
		must(t, err)
		return strings.TrimSpace(out)
	}
	c := httpIn(h.Node)
	const at6 = "http://[2001:db8:1:0:57:43ff:fe01:1]" // SLAAC: EUI-64 of the MAC
	up := func(url string) func() bool {
		return func() bool {
			r, err := c.Get(url)
			if err != nil {
				return false
			}
			r.Body.Close()
			return true
		}
	}
	boot := func(start time.Time) {
		t.Helper()
		eventually(t, "the guest answers over IPv6", up(at6))
		t.Logf("figure guest.boot_seconds %.2f s (to the answer over HTTP)", time.Since(start).Seconds())
	}
	virsh("define", "/var/lib/web1.xml")
	start = time.Now()
	virsh("start", "web1")
	boot(start)
	lease := ""
	eventually(t, "the guest has a lease", func() bool { lease = sh(t, h.Node, "cut -d' ' -f3 /run/leases | grep ^10; true"); return lease != "" })
	addr4 := "http://" + strings.Fields(lease)[0]
	eventually(t, "the guest answers over IPv4", up(addr4))

	if page := fetch(t, c, "GET", at6+"/"); !strings.HasPrefix(page, "widecloud guest web1\nboot-id ") {
		t.Errorf("page: %q", page)
	}
	var seed struct {
		InstanceID string   `json:"instanceID"`
		SSHKeys    []string `json:"sshKeys"`
	}
	must(t, json.Unmarshal([]byte(fetch(t, c, "GET", addr4+"/seed")), &seed))
	if seed.InstanceID != "i-1" || len(seed.SSHKeys) != 1 {
		t.Errorf("seed: %+v", seed)
	}
	r, err := c.Get(at6 + "/stream?rate=400000&seconds=1&from=800")
	must(t, err)
	stream, err := io.ReadAll(r.Body)
	r.Body.Close()
	must(t, err)
	if len(stream) != 400000 {
		t.Errorf("stream of %d bytes", len(stream))
	}
	for i := 0; i+8 <= len(stream); i += 8 {
		if got := binary.BigEndian.Uint64(stream[i:]); got != uint64(800+i) {
			t.Fatalf("stream: at %d stands %d", 800+i, got)
		}
	}
	sum := fetch(t, c, "PUT", at6+"/disk?mb=4&seed=7")
	if got := fetch(t, c, "GET", at6+"/disk?mb=4"); got != sum || len(sum) != 64 {
		t.Errorf("disk: wrote %s, read %s", sum, got)
	}
	fetch(t, c, "POST", at6+"/dirty?mb=8&rate=1000000")
	fetch(t, c, "POST", at6+"/dirty?mb=0")
	firstBoot := fetch(t, c, "GET", at6+"/boot")
	if log := sh(t, h.Node, "cat /var/lib/console.log"); !strings.Contains(log, "widecloud guest web1 ready") {
		t.Errorf("console: %q", log)
	}

	// The power button ends it properly.
	virsh("shutdown", "web1")
	eventually(t, "the guest is off", func() bool { return virsh("domstate", "web1") == "shut off" })

	// A power cut of the host: what the guest has synced is still there.
	virsh("start", "web1")
	boot(time.Now())
	must(t, h.PowerOff(), h.PowerOn())
	if got := virsh("domstate", "web1"); got != "shut off" {
		t.Errorf("after the power cut the VM is %q", got)
	}
	start = time.Now()
	virsh("start", "web1")
	boot(start)
	if got := fetch(t, c, "GET", at6+"/disk?mb=4"); got != sum {
		t.Errorf("after the power cut: disk %s, want %s", got, sum)
	}
	if got := fetch(t, c, "GET", at6+"/boot"); got == firstBoot {
		t.Error("the boot id did not change")
	}
}
