package netio_test

import (
	"errors"
	"io/fs"
	"os/exec"
	"testing"

	"widecloud/internal/netio"
)

// TestOffloads holds what is read against ethtool's own words.
func TestOffloads(t *testing.T) {
	ns := newNS(t, "eth")
	must(t, ns.AddVeth(netio.VethSpec{Name: "v0", PeerName: "v1"}))
	for _, c := range []struct {
		option, name string
	}{{"gro", "rx-gro"}, {"rx-gro-list", "rx-gro-list"}, {"tso", "tx-tcp-segmentation"}, {"tx", "tx-checksum-ip-generic"}} {
		for _, on := range []bool{true, false} {
			must(t, ns.Do(exec.Command("ethtool", "-K", "v0", c.option, map[bool]string{true: "on", false: "off"}[on]).Run))
			f, err := ns.Offloads("v0")
			must(t, err)
			if got, ok := f[c.name]; !ok || got != on {
				t.Errorf("%s is %v, %v; want %v", c.name, got, ok, on)
			}
		}
	}
	if _, err := ns.Offloads("nix"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no device: %v", err)
	}
}
