package checkup_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/agent/checkup"
	"widecloud/internal/config"
	"widecloud/internal/hyper"
)

// well is a machine on which nothing is wrong but that it has not joined: the test's own kernel and disks are not asked.
func well(t *testing.T) checkup.Options {
	c := config.DefaultAgent()
	c.Site, c.Host, c.Controller, c.VTEP = "tokyo", "h1", "[2001:db8::7]:7647", netip.MustParseAddr("2001:db8::11")
	c.Roles = []api.HostRole{api.RoleHypervisor, api.RoleGateway}
	c.DataDir, c.Libvirt.StateDir, c.Libvirt.Accel, c.Libvirt.Reserve = t.TempDir(), t.TempDir(), "tcg", 0
	return checkup.Options{
		Config: c,
		Hypervisor: func(context.Context) (hyper.Capabilities, error) {
			return hyper.Capabilities{Hypervisor: "qemu 7.2.0 (tcg)", CPUs: 4}, nil
		},
		LookPath: func(file string) (string, error) { return "/bin/" + file, nil },
		Dial: func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			b.Close()
			return a, nil
		},
		Clock: func() (bool, time.Duration, error) { return true, time.Millisecond, nil },
		Addresses: func() ([]net.Addr, error) {
			return []net.Addr{&net.IPNet{IP: net.ParseIP("2001:db8::11"), Mask: net.CIDRMask(64, 128)}}, nil
		},
	}
}

// TestRun: each check finds what is wrong, and nothing else changes.
func TestRun(t *testing.T) {
	broken := errors.New("it is broken")
	for _, c := range []struct {
		name  string
		spoil func(o *checkup.Options)
		want  string // SEVERITY ID: part of the message
	}{
		{"well", func(*checkup.Options) {}, "warn host.identity: has not joined site tokyo"},
		{"identity", func(o *checkup.Options) {
			if err := os.WriteFile(o.Config.DataDir+"/credential.pem", []byte("nothing"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "bad host.identity: credential.pem"},
		{"tools", func(o *checkup.Options) {
			o.LookPath = func(file string) (string, error) {
				if file == "nft" {
					return "", broken
				}
				return file, nil
			}
		}, "bad host.tools: nft not found"},
		{"libvirtd", func(o *checkup.Options) {
			o.Hypervisor = func(context.Context) (hyper.Capabilities, error) { return hyper.Capabilities{}, broken }
		}, "bad host.libvirtd: it is broken"},
		{"slow", func(o *checkup.Options) {
			o.Config.Libvirt.Accel = "auto"
			o.Hypervisor = func(context.Context) (hyper.Capabilities, error) {
				return hyper.Capabilities{AccelWhy: "no /dev/kvm"}, nil
			}
		}, "warn host.libvirtd: not KVM: no /dev/kvm"},
		{"controller", func(o *checkup.Options) {
			o.Dial = func(_ context.Context, network, _ string) (net.Conn, error) {
				if network == "tcp" {
					return nil, broken
				}
				a, _ := net.Pipe()
				return a, nil
			}
		}, "bad host.controller: it is broken"},
		{"translator", func(o *checkup.Options) {
			o.Dial = func(_ context.Context, network, _ string) (net.Conn, error) {
				if network == "unix" {
					return nil, broken
				}
				a, _ := net.Pipe()
				return a, nil
			}
		}, "bad host.translator: it is broken"},
		{"vtep", func(o *checkup.Options) { o.Addresses = func() ([]net.Addr, error) { return nil, nil } }, "bad host.vtep: 2001:db8::11 is on no interface"},
		{"clock", func(o *checkup.Options) { o.Clock = func() (bool, time.Duration, error) { return false, 0, nil } }, "warn host.time: not synchronised"},
		{"no disk", func(o *checkup.Options) { o.Config.Libvirt.StateDir = "/nowhere/at/all" }, "warn host.volumes: no such file"},
		{"full disk", func(o *checkup.Options) { o.Config.Libvirt.Reserve = 1 << 60 }, "bad host.volumes: nothing new has room"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := well(t)
			c.spoil(&o)
			findings := checkup.Run(t.Context(), o)
			head, part, _ := strings.Cut(c.want, ": ")
			if !slices.ContainsFunc(findings, func(f api.Finding) bool {
				return string(f.Severity)+" "+f.ID == head && strings.Contains(f.Message, part) && f.Advice != ""
			}) {
				t.Errorf("found %+v, want %s", findings, c.want)
			}
			for _, f := range findings {
				if f.Severity == api.SeverityBad && "bad "+f.ID != head {
					t.Errorf("found %+v beside", f)
				}
			}
		})
	}
}
