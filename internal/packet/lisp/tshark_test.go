package lisp_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"widecloud/internal/packet/lisp"
)

// TestTShark: another reader sees in our messages what we have written.
func TestTShark(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lisp.pcap")
	writePcap(t, file)
	seen := map[string]bool{"_ws.malformed": true, "_ws.expert.message": true}
	for _, m := range messages {
		for f := range m.tshark {
			seen[f] = true
		}
	}
	fields := slices.Sorted(maps.Keys(seen))
	args := []string{"-r", file, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-T", "fields", "-E", "separator=|", "-E", "occurrence=a", "-E", "aggregator=,"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := exec.Command("tshark", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, &stderr)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(messages) {
		t.Fatalf("tshark shows %d packets of %d:\n%s\n%s", len(lines), len(messages), out, &stderr)
	}
	for i, m := range messages {
		got := map[string]string{}
		for j, v := range strings.Split(lines[i], "|") {
			if _, ok := m.tshark[fields[j]]; ok {
				got[fields[j]] = v
			}
			if fields[j] == "_ws.malformed" && v != "" {
				t.Errorf("%s: tshark finds it malformed", m.name)
			}
		}
		if diff := cmp.Diff(m.tshark, got); diff != "" {
			t.Errorf("%s (-want +tshark's):\n%s", m.name, diff)
		}
	}
}

func writePcap(t *testing.T, file string) {
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(1<<16, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	for i, m := range messages {
		buf := gopacket.NewSerializeBuffer()
		ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: []byte{127, 0, 0, 1}, DstIP: []byte{127, 0, 0, 2}}
		udp := &layers.UDP{SrcPort: lisp.ControlPort, DstPort: lisp.ControlPort}
		// No outer checksums (to tshark 0, wrong, and 3, left out), so that they are not taken for the inner ones.
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, ip, udp, gopacket.Payload(bytesOf(t, m.message))); err != nil {
			t.Fatal(err)
		}
		b := buf.Bytes()
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(int64(i), 0), CaptureLength: len(b), Length: len(b)}, b); err != nil {
			t.Fatal(err)
		}
	}
}
