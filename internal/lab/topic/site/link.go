package site

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/netio"
)

// links are the statements about links between sites; faults cut and heal them.
var links = []script.Entry{
	{
		Form: "wan SITE SITE [PROPERTY…] [mtu N] [pinned] [back PROPERTY…]", Part: script.Declares,
		Doc: "a wide-area link. A PROPERTY is `rtt TIME`, `delay TIME`, `jitter TIME`, `rate RATE`, `queue SIZE` or `loss N%`, of both directions, or " +
			"behind `back` of the way from the second site to the first ([below](#links))",
		Parse: parseWAN,
	},
	{
		Form: "flap SITE SITE every TIME down TIME", Part: script.Fails,
		Doc: "the link between them is cut for the second time in each of the first, from now until `heal`", Parse: parseFlap,
	},
	{
		Form: "congestion reno|cubic|bbr [SITE…]", Part: script.Declares,
		Doc: "TCP's congestion control of these sites' machines, or of all; `reno` if not said. A machine's kernel may allow not all of them in " +
			"namespaces; guests have their kernel's own",
		Parse: parseCongestion,
	},
}

// WAN is a wide-area link between two sites.
type WAN struct {
	A, B    *Site
	Options machine.WANOptions
	Pinned  bool // no other way is taken between the two sites

	link *machine.WAN
}

// Joins implements stage.Link.
func (w *WAN) Joins(a, b any) bool {
	return a == any(w.A) && b == any(w.B) || a == any(w.B) && b == any(w.A)
}

// SetCut implements stage.Link.
func (w *WAN) SetCut(from any, cut bool) {
	ways := machine.BothWays
	switch from {
	case any(w.A):
		ways = machine.AToB
	case any(w.B):
		ways = machine.BToA
	}
	if cut {
		w.link.Cut(ways)
	} else {
		w.link.Heal(ways)
	}
}

// Counters are what has gone from A to B, and back.
func (w *WAN) Counters() (ab, ba machine.Direction) { return w.link.Counters() }

// shape is that of what one of the sites sends.
func (w *WAN) shape(from *Site) machine.Shape {
	if from == w.B && w.Options.Back != nil {
		return *w.Options.Back
	}
	return w.Options.Shape
}

// linkDevice is the device of the link to a site, at another one's router.
func linkDevice(to *Site) string { return "w-" + to.name }

// find is the link between two sites; nil: there is none.
func (f *Federation) find(a, b *Site) *WAN {
	if i := slices.IndexFunc(f.WANs, func(w *WAN) bool { return w.Joins(a, b) }); i >= 0 {
		return f.WANs[i]
	}
	return nil
}

func parseWAN(p *script.Parser) any {
	f := federation(p)
	w := &WAN{A: ref(p)}
	w.B = other(p, w.A)
	if f.find(w.A, w.B) != nil {
		p.Fail(p.First(), "there is a link between %s and %s already", w.A.name, w.B.name)
	}
	if len(f.WANs) == maxTrunks-maxSites-1 {
		p.Fail(p.First(), "more than %d links", len(f.WANs))
	}
	properties := []string{"rtt", "delay", "jitter", "rate", "queue", "loss"}
	for p.More() {
		switch word := p.OneOf(append(slices.Clone(properties), "mtu", "pinned", "back")...); word {
		case "mtu":
			w.Options.MTU = p.Number("MTU", machine.MinMTU, machine.MaxMTU)
		case "pinned":
			w.Pinned = true
		case "back":
			back := w.Options.Shape // what is not said is as it is there
			for p.More() {
				// Not rtt, which is of both directions.
				property(p, &back, p.OneOf(properties[1:]...))
			}
			w.Options.Back = &back
		default:
			property(p, &w.Options.Shape, word)
		}
	}
	all := script.Shared(p, func() *stage.Links { return &stage.Links{} })
	all.All = append(all.All, w)
	f.WANs = append(f.WANs, w)
	return nil
}

// property takes the value of one property of a direction.
func property(p *script.Parser, s *machine.Shape, word string) {
	switch word {
	case "rtt":
		s.Delay = p.Duration(10*time.Second) / 2
	case "delay":
		s.Delay = p.Duration(5 * time.Second)
	case "jitter":
		s.Jitter = p.Duration(5 * time.Second)
	case "rate":
		s.Rate = p.Quantity("rate in bit/s", 100e9)
	case "queue":
		s.Queue = int(p.Quantity("size", 1<<30))
	case "loss":
		s.Loss = loss(p)
	}
}

// loss takes a percentage that may have a fraction.
func loss(p *script.Parser) float64 {
	w := p.Next("loss such as 0.5%")
	text, ok := strings.CutSuffix(strings.TrimSuffix(w.Text, ","), "%")
	n, err := strconv.ParseFloat(text, 64)
	if !ok || err != nil || !(n >= 0 && n <= 99) {
		p.Fail(w, "%q is no loss from 0%% to 99%%", w.Text)
	}
	return n / 100
}

// Flap lets a link come and go.
type Flap struct {
	Link        *WAN
	Every, Down time.Duration
}

func parseFlap(p *script.Parser) any {
	a := ref(p)
	at := p.Peek()
	b := other(p, a)
	f := &Flap{Link: federation(p).find(a, b)}
	if f.Link == nil {
		p.Fail(at, "there is no link between %s and %s", a.name, b.name)
	}
	p.OneOf("every")
	f.Every = p.Duration(time.Hour)
	p.OneOf("down")
	at = p.Peek()
	f.Down = p.Duration(time.Hour)
	if f.Down <= 0 || f.Down >= f.Every {
		p.Fail(at, "%v down in %v: more than nothing and less than all is wanted", f.Down, f.Every)
	}
	return f
}

// Do implements stage.Doer.
func (f *Flap) Do(_ context.Context, s *stage.Stage) error {
	s.Undo("heal", func(context.Context) error { f.Link.SetCut(nil, false); return nil })
	return f.Link.link.Flap(f.Every, f.Down)
}

func parseCongestion(p *script.Parser) any {
	algorithm := p.OneOf("reno", "cubic", "bbr")
	said := func(to *string) {
		if *to != "" {
			p.Fail(p.First(), "the congestion control is said already: %s", *to)
		}
		*to = algorithm
	}
	if !p.More() {
		said(&stage.TCPOf(p).Congestion)
	}
	for p.More() {
		said(&ref(p).Congestion)
	}
	return nil
}

// pin makes a site's router send what is for the other site's machines over the
// link to it, at via, whatever OSPF finds. A static route goes before OSPF's, and
// before every wider one.
func (s *Site) pin(other *Site, device string, via cable) error {
	return s.router.Setup(func(ns *netio.NS) error {
		for _, m := range other.machines() {
			// Both cables have their prefixes in the same order: IPv4, IPv6.
			for i, p := range leaf(other.number, m.number).a {
				if err := ns.ReplaceRoute(netio.Route{Dst: p.Masked(), Gateway: via.b[i].Addr(), Link: device, Metric: 1}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
