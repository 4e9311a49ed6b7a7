package netio_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"widecloud/internal/netio"
)

// bpffs mounts a bpffs of the test's own.
func bpffs(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "map646")
}

func entry(id uint32, outside, inside string) netio.FastEntry {
	return netio.FastEntry{ID: id, Outside: netip.MustParsePrefix(outside), Inside: netip.MustParsePrefix(inside)}
}

func TestFastOpen(t *testing.T) {
	ns, err := netio.CurrentNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	f, err := ns.OpenFast(netio.FastSpec{PinDir: bpffs(t), MaxMappings: 1000, MaxPrefixes: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Configure(netio.FastSettings{Pref64: netip.MustParsePrefix("2001:db8:64::/96"), Hops: 2}); err != nil {
		t.Fatal(err)
	}
	if err := f.Set([]netio.FastEntry{entry(0, "203.0.113.10/32", "2001:db8:a::10/128"), entry(1, "2001:db8:f::10/128", "2001:db8:a::10/128")}); err != nil {
		t.Fatal(err)
	}
	eth := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	four := append(bytes.Clone(eth), 8, 0, 0x45, 0, 0, 40, 0, 7, 0x40, 0, 64, 6, 0, 0, 198, 51, 100, 7, 203, 0, 113, 10,
		0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(four[24:], ^sum(four[14:34]))
	out, ok, err := f.TestRun(four)
	t.Logf("%x %v %v", out, ok, err)
	six := append(bytes.Clone(eth), 0x86, 0xdd)
	six = append(six, out[14:]...)
	copy(six[22:], out[38:54])
	copy(six[38:], out[22:38])
	out, ok, err = f.TestRun(six)
	t.Logf("%x %v %v", out, ok, err)
	t.Log(f.Counters())
	t.Log(f.MappingCounters(0))
	if err := f.Discard(); err != nil {
		t.Fatal(err)
	}
}

func sum(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}
