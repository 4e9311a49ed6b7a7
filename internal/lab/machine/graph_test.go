package machine_test

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/lab/machine"
)

// picture is two sites with a link between them, a machine without power, and one
// that nothing is joined to.
func picture() *machine.Picture {
	p := &machine.Picture{Name: "lab"}
	for i, n := range []string{"a-h1", "a-r", "alone", "b-r", "client4", "inet"} {
		p.Machines = append(p.Machines, machine.Seen{Name: n, PID: 100 * i, Processes: []string{"zebra", "a<b"}})
	}
	for _, c := range [][2]string{{"a-r", "a-h1"}, {"a-r", "inet"}, {"b-r", "inet"}, {"inet", "client4"}} {
		p.Cables = append(p.Cables, machine.Cable{A: c[0], B: c[1], ADevice: "x", BDevice: "y"})
	}
	p.Cables = append(p.Cables, machine.Cable{A: "a-r", B: "b-r", ADevice: "w-b", BDevice: "w-a", WAN: true})
	return p
}

func TestGraphText(t *testing.T) {
	const want = `inet
├─ a-r
│  └─ a-h1 (off)
├─ b-r
└─ client4
alone
a-r ≈≈ b-r
`
	if d := cmp.Diff(want, picture().Text()); d != "" {
		t.Errorf("text (-want +got):\n%s", d)
	}
}

// TestGraphSVG: it is XML, with each machine and each link once, and nothing outside
// of it.
func TestGraphSVG(t *testing.T) {
	svg := picture().SVG()
	paths, texts := 0, 0
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if e, ok := tok.(xml.StartElement); ok {
			switch e.Name.Local {
			case "path":
				paths++
			case "text":
				texts++
			}
		}
	}
	if paths != 5 || texts != 6 || strings.Contains(svg, `"-`) {
		t.Errorf("%d links and %d machines in\n%s", paths, texts, svg)
	}
}

// TestPictureMachine: machines are found by the names that scripts have for them.
func TestPictureMachine(t *testing.T) {
	p := picture()
	for name, want := range map[string]string{"a-r": "a-r", "a/h1": "a-h1", "inet4": "client4", "inet": "inet"} {
		if m, err := p.Machine(name); err != nil || m.Name != want {
			t.Errorf("%s: %s, %v", name, m.Name, err)
		}
	}
	if _, err := p.Machine("c"); err == nil || !strings.Contains(err.Error(), "known: a-h1, a-r, alone") {
		t.Errorf("unknown: %v", err)
	}
}

// TestLook: another program sees machines, their processes, links and frames.
func TestLook(t *testing.T) {
	if _, err := machine.Look("", scope.Name+"x"); !errors.Is(err, machine.ErrOff) {
		t.Errorf("no lab: %v", err)
	}
	l := open(t)
	a, b := node(t, l, machine.NodeOptions{Name: "a"}), node(t, l, machine.NodeOptions{Name: "b"})
	must(t, l.Link(machine.End{Node: a, Device: "eth0", Addrs: prefix("192.0.2.1/24")}, machine.End{Node: b, Device: "eth1", Addrs: prefix("192.0.2.2/24")}))
	_, err := a.Start(machine.ProcessOptions{Name: "sleeper", Args: []string{"/bin/sleep", "1000"}})
	must(t, err)
	must(t, b.PowerOff())
	p, err := machine.Look("", scope.Name)
	must(t, err)
	want := &machine.Picture{
		Name: scope.Name, Machines: []machine.Seen{{Name: "a", PID: a.PID(), Processes: []string{"sleep"}}, {Name: "b"}},
		Cables: []machine.Cable{{A: "a", ADevice: "eth0", B: "b", BDevice: "eth1"}},
	}
	if d := cmp.Diff(want, p); d != "" {
		t.Errorf("picture (-want +got):\n%s", d)
	}
	must(t, b.PowerOn())
	f, err := p.Capture("b", "eth1")
	must(t, err)
	defer f.Close()
	sh(t, a, "ping -c 1 -W 5 192.0.2.2")
	frame := make([]byte, 1<<16)
	for {
		n, err := f.Read(frame)
		must(t, err)
		if n > 34 && string(frame[12:14]) == "\x08\x00" && frame[23] == 1 { // IPv4, ICMP
			break
		}
	}
}
