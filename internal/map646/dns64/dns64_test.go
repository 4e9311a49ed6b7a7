package dns64_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"widecloud/internal/map646/dns64"
	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// resolver is a recursive resolver on loopback that says what a test tells it.
type resolver struct {
	addr netip.AddrPort
	mu   sync.Mutex
	// zone is answers by "name type": records in the zone file's syntax, and words
	// before them: "NXDOMAIN", "SERVFAIL", "REFUSED", "bogus" (an extended error),
	// "ad", "silent". Records after "ns" are authority, after "extra" additional.
	zone map[string]string
	// before is called with each query, before its answer; it may write too.
	before func(w dns.ResponseWriter, q *dns.Msg)
	asked  []string
	last   *dns.Msg
}

func (r *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name := strings.ToLower(q.Question[0].Name) + " " + dns.TypeToString[q.Question[0].Qtype]
	r.mu.Lock()
	r.asked = append(r.asked, name)
	r.last = q
	text, known := r.zone[name]
	before := r.before
	r.mu.Unlock()
	if before != nil {
		before(w, q)
	}
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	m.SetEdns0(1232, q.IsEdns0().Do())
	if !known {
		text = "ns\nexample. 300 SOA ns.example. root.example. 1 2 3 4 300"
	}
	section := &m.Answer
	for line := range strings.Lines(text) {
		switch line = strings.TrimSpace(line); line {
		case "", "noerror":
		case "NXDOMAIN":
			m.Rcode = dns.RcodeNameError
		case "SERVFAIL":
			m.Rcode = dns.RcodeServerFailure
		case "REFUSED":
			m.Rcode = dns.RcodeRefused
		case "bogus":
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus})
		case "ad":
			m.AuthenticatedData = true
		case "silent":
			return
		case "ns":
			section = &m.Ns
		case "extra":
			section = &m.Extra
		default:
			rr, err := dns.NewRR(line)
			if err != nil {
				panic(err)
			}
			*section = append(*section, rr)
		}
	}
	if w.LocalAddr().Network() == "udp" {
		m.Truncate(1232)
	}
	if err := w.WriteMsg(m); err != nil {
		panic(err)
	}
}

func (r *resolver) questions() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.asked
	r.asked = nil
	return out
}

func (r *resolver) hook(f func(w dns.ResponseWriter, q *dns.Msg)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = f
}

func startResolver(t testing.TB, zone map[string]string) *resolver {
	t.Helper()
	r := &resolver{zone: zone}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().(*net.TCPAddr).AddrPort()
	p, err := net.ListenPacket("udp4", r.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: l, Handler: r}, {PacketConn: p, Handler: r}} {
		up, done := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() { s.Shutdown(); <-done })
	}
	return r
}

var (
	pref64   = netip.MustParsePrefix("2001:db8:64::/96")
	loopback = netip.MustParseAddrPort("127.0.0.1:0")
	nobody   = netip.MustParseAddrPort("127.0.0.1:9") // discard: nothing answers
)

// start runs a DNS64 for the length of the test.
func start(t testing.TB, o dns64.Options) *dns64.Server {
	t.Helper()
	if o.Listen == nil {
		o.Listen = []netip.AddrPort{loopback}
	}
	if !o.Prefix.IsValid() {
		o.Prefix = pref64
	}
	s, err := dns64.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return s
}

func query(name, qtype string) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.StringToType[qtype])
	return m
}

func send(t testing.TB, s *dns64.Server, network string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 20 * time.Second}
	r, _, err := c.Exchange(m, s.Addrs()[0].String())
	if err != nil {
		t.Fatalf("%v: %v", m.Question, err)
	}
	return r
}

// show is a message as text: rcode and flags, then the records by section.
func show(m *dns.Msg) string {
	var b strings.Builder
	b.WriteString(dns.RcodeToString[m.Rcode])
	for _, f := range []struct {
		on   bool
		name string
	}{{m.Authoritative, "aa"}, {m.Truncated, "tc"}, {m.AuthenticatedData, "ad"}, {m.CheckingDisabled, "cd"}} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	b.WriteString("\n")
	for _, s := range []struct {
		name string
		rrs  []dns.RR
	}{{"", m.Answer}, {"ns ", m.Ns}, {"extra ", m.Extra}} {
		for _, rr := range s.rrs {
			if rr.Header().Rrtype != dns.TypeOPT {
				b.WriteString(s.name + strings.ReplaceAll(strings.ReplaceAll(rr.String(), "\t", " "), " IN ", " ") + "\n")
			}
		}
	}
	return strings.TrimSpace(b.String())
}

const sig = " 300 RRSIG %s 8 2 300 20260101000000 20250101000000 1 example. c2ln"

// TestAnswers is RFC 6147 by what comes of one question.
func TestAnswers(t *testing.T) {
	soa := "ns\nexample. 200 SOA ns.example. root.example. 1 2 3 4 300"
	zone := map[string]string{
		"six.example. AAAA": "six.example. 300 AAAA 2001:db8:1::1",
		"six.example. A":    "six.example. 300 A 192.0.2.1",

		"four.example. A":    "four.example. 3600 A 192.0.2.33\nfour.example. 100 A 198.51.100.7\nns\nexample. 300 NS ns.example.\nextra\nns.example. 300 A 192.0.2.53",
		"four.example. AAAA": soa,

		"nosoa.example. AAAA": "noerror",
		"nosoa.example. A":    "nosoa.example. 3600 A 192.0.2.33",

		"minimum.example. AAAA": "ns\nexample. 3600 SOA ns.example. root.example. 1 2 3 4 60",
		"minimum.example. A":    "minimum.example. 3600 A 192.0.2.33",

		"www.example. AAAA":   "www.example. 50 CNAME web.example.\n" + soa,
		"www.example. A":      "www.example. 50 CNAME web.example.\nweb.example. 3600 A 192.0.2.33",
		"a.old.example. AAAA": "old.example. 70 DNAME new.example.\na.old.example. 70 CNAME a.new.example.\n" + soa,
		"a.old.example. A":    "old.example. 70 DNAME new.example.\na.old.example. 70 CNAME a.new.example.\na.new.example. 80 A 192.0.2.33",

		"mapped.example. AAAA": "mapped.example. 300 AAAA ::ffff:192.0.2.1",
		"mapped.example. A":    "mapped.example. 3600 A 192.0.2.1",
		"some.example. AAAA":   "ad\nsome.example. 300 AAAA ::ffff:192.0.2.1\nsome.example. 300 AAAA 2001:db8:1::1\nsome.example." + fmt.Sprintf(sig, "AAAA"),

		"none.example. AAAA":   "NXDOMAIN\n" + soa,
		"none.example. A":      "none.example. 3600 A 192.0.2.1",
		"broken.example. AAAA": "SERVFAIL",
		"broken.example. A":    "broken.example. 3600 A 192.0.2.33",
		"refuse.example. AAAA": "REFUSED",
		"refuse.example. A":    "refuse.example. 30 A 192.0.2.33",
		"bogus.example. AAAA":  "SERVFAIL\nbogus",
		"bogus.example. A":     "bogus.example. 3600 A 192.0.2.33",
		"worse.example. AAAA":  "SERVFAIL",
		"worse.example. A":     "SERVFAIL",
		"half.example. A":      "NXDOMAIN\n" + soa,
		"silent.example. AAAA": "silent",
		"silent.example. A":    "silent.example. 3600 A 192.0.2.33",
		"dead.example. AAAA":   "silent",
		"dead.example. A":      "silent",

		"signed.example. AAAA": "ad\n" + soa,
		"signed.example. A":    "ad\nsigned.example. 300 A 192.0.2.33\nsigned.example." + fmt.Sprintf(sig, "A"),
		"lax.example. AAAA":    soa,
		"lax.example. A":       "ad\nlax.example. 300 A 192.0.2.33",

		"lo.example. A":   "lo.example. 300 A 127.0.0.1\nlo.example. 300 A 0.0.0.0\nlo.example. 300 A 224.0.0.1\nlo.example. 300 A 255.255.255.255",
		"priv.example. A": "priv.example. 300 A 10.1.2.3",

		"1.2.0.192.in-addr.arpa. PTR": "ad\n1.2.0.192.in-addr.arpa. 77 PTR four.example.",
		"2.2.0.192.in-addr.arpa. PTR": "2.2.0.192.in-addr.arpa. 77 CNAME 2.0-63.2.0.192.in-addr.arpa.\n2.0-63.2.0.192.in-addr.arpa. 66 PTR two.example.",
		"3.2.0.192.in-addr.arpa. PTR": "NXDOMAIN\nns\n2.0.192.in-addr.arpa. 200 SOA ns.example. root.example. 1 2 3 4 300",

		"four.example. MX": "four.example. 300 MX 10 four.example.",
	}
	r := startResolver(t, zone)
	s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}, Timeout: 200 * time.Millisecond, TrustAD: true})
	rev := func(a string) string { n, _ := dns.ReverseAddr(a); return n }
	const exampleSOA = "ns example. 200 SOA ns.example. root.example. 1 2 3 4 300"
	for _, c := range []struct {
		question, want, asked string
	}{
		{"six.example. AAAA", "NOERROR\nsix.example. 300 AAAA 2001:db8:1::1", "six.example. AAAA"},
		{"four.example. AAAA", "NOERROR\nfour.example. 200 AAAA 2001:db8:64::c000:221\nfour.example. 100 AAAA 2001:db8:64::c633:6407\n" +
			"ns example. 300 NS ns.example.\nextra ns.example. 300 A 192.0.2.53", "four.example. AAAA four.example. A"},
		{"FoUr.eXample. MX", "NOERROR\nfour.example. 300 MX 10 four.example.", "four.example. MX"},
		{"four.example. A", "NOERROR\nfour.example. 3600 A 192.0.2.33\nfour.example. 100 A 198.51.100.7\n" +
			"ns example. 300 NS ns.example.\nextra ns.example. 300 A 192.0.2.53", "four.example. A"},
		{"nosoa.example. AAAA", "NOERROR\nnosoa.example. 600 AAAA 2001:db8:64::c000:221", ""},
		{"minimum.example. AAAA", "NOERROR\nminimum.example. 60 AAAA 2001:db8:64::c000:221", ""},
		{"www.example. AAAA", "NOERROR\nwww.example. 50 CNAME web.example.\nweb.example. 200 AAAA 2001:db8:64::c000:221", "www.example. AAAA www.example. A"},
		{"a.old.example. AAAA", "NOERROR\nold.example. 70 DNAME new.example.\na.old.example. 70 CNAME a.new.example.\na.new.example. 80 AAAA 2001:db8:64::c000:221", ""},
		{"mapped.example. AAAA", "NOERROR\nmapped.example. 600 AAAA 2001:db8:64::c000:201", ""},
		{"some.example. AAAA +ad", "NOERROR\nsome.example. 300 AAAA 2001:db8:1::1", "some.example. AAAA"},
		{"none.example. AAAA", "NXDOMAIN\n" + exampleSOA, "none.example. AAAA"},
		{"broken.example. AAAA", "NOERROR\nbroken.example. 600 AAAA 2001:db8:64::c000:221", "broken.example. AAAA broken.example. A"},
		{"refuse.example. AAAA", "NOERROR\nrefuse.example. 30 AAAA 2001:db8:64::c000:221", ""},
		{"bogus.example. AAAA", "SERVFAIL", "bogus.example. AAAA"},
		{"worse.example. AAAA", "SERVFAIL", "worse.example. AAAA worse.example. A"},
		{"half.example. AAAA", "NXDOMAIN\n" + exampleSOA, ""},
		{"silent.example. AAAA", "NOERROR\nsilent.example. 600 AAAA 2001:db8:64::c000:221", "silent.example. AAAA silent.example. AAAA silent.example. A"},
		{"dead.example. AAAA", "SERVFAIL", ""},
		{"empty.example. AAAA", "NOERROR\nns example. 300 SOA ns.example. root.example. 1 2 3 4 300", "empty.example. AAAA empty.example. A"},
		{"lo.example. AAAA", "NOERROR\nns example. 300 SOA ns.example. root.example. 1 2 3 4 300", ""},
		{"priv.example. AAAA", "NOERROR\npriv.example. 300 AAAA 2001:db8:64::a01:203", ""},
		// §5.5.
		{"signed.example. AAAA", "NOERROR ad\nsigned.example. 200 AAAA 2001:db8:64::c000:221", ""},
		{"signed.example. AAAA +do", "NOERROR ad\nsigned.example. 200 AAAA 2001:db8:64::c000:221", ""},
		{"signed.example. AAAA +cd", "NOERROR ad cd\nsigned.example. 200 AAAA 2001:db8:64::c000:221", ""},
		{"signed.example. AAAA +do +cd", "NOERROR ad cd\n" + exampleSOA, "signed.example. AAAA"},
		{"signed.example. A +do +cd", "NOERROR ad cd\nsigned.example. 300 A 192.0.2.33\nsigned.example. 300 RRSIG A 8 2 300 20260101000000 20250101000000 1 example. c2ln", ""},
		{"lax.example. AAAA +do", "NOERROR\nlax.example. 200 AAAA 2001:db8:64::c000:221", ""},
		// §5.3.1.
		{rev("2001:db8:64::192.0.2.1") + " PTR", "NOERROR ad\n" + rev("2001:db8:64::192.0.2.1") + " 77 CNAME 1.2.0.192.in-addr.arpa.\n1.2.0.192.in-addr.arpa. 77 PTR four.example.", "1.2.0.192.in-addr.arpa. PTR"},
		{rev("2001:db8:64::192.0.2.2") + " PTR", "NOERROR\n" + rev("2001:db8:64::192.0.2.2") + " 66 PTR two.example.", ""},
		{rev("2001:db8:64::192.0.2.3") + " PTR", "NXDOMAIN", ""},
		{rev("2001:db8:64::192.0.2.1") + " PTR +do +cd", "NOERROR cd\nns example. 300 SOA ns.example. root.example. 1 2 3 4 300", rev("2001:db8:64::192.0.2.1") + " PTR"},
		{rev("2001:db8:65::192.0.2.1") + " PTR", "NOERROR\nns example. 300 SOA ns.example. root.example. 1 2 3 4 300", rev("2001:db8:65::192.0.2.1") + " PTR"},
		{rev("2001:db8:64::192.0.2.1")[2:] + " PTR", "NOERROR\nns example. 300 SOA ns.example. root.example. 1 2 3 4 300", rev("2001:db8:64::192.0.2.1")[2:] + " PTR"},
		// RFC 8880: nobody is asked.
		{"ipv4only.arpa. A", "NOERROR aa\nipv4only.arpa. 600 A 192.0.0.170\nipv4only.arpa. 600 A 192.0.0.171", "-"},
		{"IPv4Only.ARPA. AAAA", "NOERROR aa\nIPv4Only.ARPA. 600 AAAA 2001:db8:64::c000:aa\nIPv4Only.ARPA. 600 AAAA 2001:db8:64::c000:ab", "-"},
		{"ipv4only.arpa. AAAA +do +cd", "NOERROR aa cd\nns ipv4only.arpa. 600 SOA ipv4only.arpa. nobody.invalid. 1 3600 600 86400 600", "-"},
		{"ipv4only.arpa. TXT", "NOERROR aa\nns ipv4only.arpa. 600 SOA ipv4only.arpa. nobody.invalid. 1 3600 600 86400 600", "-"},
		{"x.ipv4only.arpa. AAAA", "NXDOMAIN aa\nns ipv4only.arpa. 600 SOA ipv4only.arpa. nobody.invalid. 1 3600 600 86400 600", "-"},
		{"ipv4only.arpa. DS", "NOERROR\nns example. 300 SOA ns.example. root.example. 1 2 3 4 300", "ipv4only.arpa. DS"},
		{"170.0.0.192.in-addr.arpa. PTR", "NOERROR aa\n170.0.0.192.in-addr.arpa. 600 PTR ipv4only.arpa.", "-"},
		{rev("2001:db8:64::192.0.0.171") + " PTR", "NOERROR aa\n" + rev("2001:db8:64::192.0.0.171") + " 600 PTR ipv4only.arpa.", "-"},
	} {
		t.Run(strings.ReplaceAll(c.question, "/", "_"), func(t *testing.T) {
			words := strings.Fields(c.question)
			q := query(words[0], words[1])
			if slices.Contains(words, "+do") {
				q.SetEdns0(1232, true)
			}
			q.CheckingDisabled = slices.Contains(words, "+cd")
			q.AuthenticatedData = slices.Contains(words, "+ad")
			r.questions()
			got := send(t, s, "udp", q)
			// Without a SOA's word to the contrary, the resolver's silence has one.
			if d := cmp.Diff(c.want, show(got)); d != "" {
				t.Errorf("answer (-want +got):\n%s", d)
			}
			if got.Question[0] != q.Question[0] {
				t.Errorf("question came back as %v", got.Question)
			}
			if (got.IsEdns0() != nil) != (q.IsEdns0() != nil) {
				t.Errorf("EDNS: asked %v, got %v", q.IsEdns0(), got.IsEdns0())
			}
			asked := strings.Join(r.questions(), " ")
			if c.asked == "-" && asked != "" || c.asked != "" && c.asked != "-" && asked != c.asked {
				t.Errorf("asked upstream %q, want %q", asked, c.asked)
			}
			if r.last != nil && asked != "" && (r.last.CheckingDisabled != q.CheckingDisabled || !r.last.RecursionDesired ||
				r.last.IsEdns0().Do() != (q.IsEdns0() != nil) || r.last.AuthenticatedData != q.AuthenticatedData) {
				t.Errorf("asked with other bits: %v", r.last)
			}
		})
	}
	if st := s.Stats(); st.Synthesised["aaaa"] == 0 || st.Synthesised["ptr"] != 2 || st.Synthesised["local"] == 0 || st.Failures["bogus"] != 1 ||
		st.Failures["unanswered"] != 1 || st.Failures["not_global"] != 4 || st.InFlight != 0 {
		t.Errorf("stats %+v", st)
	}
}

// TestADIsNotPassedOnUntrusted: RFC 4035 §4.9.3.
func TestADIsNotPassedOnUntrusted(t *testing.T) {
	r := startResolver(t, map[string]string{"six.example. AAAA": "ad\nsix.example. 300 AAAA 2001:db8:1::1"})
	s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}})
	if got := show(send(t, s, "udp", query("six.example.", "AAAA"))); got != "NOERROR\nsix.example. 300 AAAA 2001:db8:1::1" {
		t.Error(got)
	}
}

// TestPrefixes: each length, there and back (RFC 6052 §2.4 gives the addresses).
func TestPrefixes(t *testing.T) {
	r := startResolver(t, map[string]string{
		"four.example. A":              "four.example. 300 A 192.0.2.33",
		"priv.example. A":              "priv.example. 300 A 10.1.2.3\npriv.example. 300 A 8.8.8.8",
		"all.example. A":               "all.example. 300 A 203.0.113.5\nall.example. 300 A 100.64.0.1",
		"33.2.0.192.in-addr.arpa. PTR": "33.2.0.192.in-addr.arpa. 300 PTR four.example.",
	})
	for prefix, want := range map[string]string{
		"2001:db8::/32":         "2001:db8:c000:221::",
		"2001:db8:100::/40":     "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":     "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100:0",
		"2001:db8:122:344::/96": "2001:db8:122:344::c000:221",
	} {
		s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}, Prefix: netip.MustParsePrefix(prefix)})
		got := send(t, s, "udp", query("four.example.", "AAAA"))
		if len(got.Answer) != 1 || got.Answer[0].(*dns.AAAA).AAAA.String() != netip.MustParseAddr(want).String() {
			t.Errorf("%s: %v", prefix, got)
			continue
		}
		back, _ := dns.ReverseAddr(want)
		if got := send(t, s, "udp", query(back, "PTR")); len(got.Answer) != 2 || got.Answer[1].(*dns.PTR).Ptr != "four.example." {
			t.Errorf("%s: PTR: %v", prefix, got)
		}
		// Bits that we would not have set make another address, not ours.
		if prefix == "2001:db8::/32" {
			r.questions()
			other, _ := dns.ReverseAddr("2001:db8:c000:221::1")
			send(t, s, "udp", query(other, "PTR"))
			if asked := r.questions(); len(asked) != 1 || !strings.HasSuffix(asked[0], ".ip6.arpa. PTR") {
				t.Errorf("asked %v", asked)
			}
		}
	}
	// RFC 6052 §3.1.
	wellKnown := netip.MustParsePrefix("64:ff9b::/96")
	s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}, Prefix: wellKnown})
	for name, want := range map[string]string{
		"priv.example.":  "NOERROR\npriv.example. 300 AAAA 64:ff9b::808:808",
		"all.example.":   "NOERROR\nns example. 300 SOA ns.example. root.example. 1 2 3 4 300",
		"ipv4only.arpa.": "NOERROR aa\nipv4only.arpa. 600 AAAA 64:ff9b::c000:aa\nipv4only.arpa. 600 AAAA 64:ff9b::c000:ab",
	} {
		if d := cmp.Diff(want, show(send(t, s, "udp", query(name, "AAAA")))); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	} // As the translator does it, so does this.
	for private, want := range map[siit.Private]int{siit.PrivateAllow: 2, siit.PrivateDrop: 1} {
		for _, p := range []netip.Prefix{wellKnown, pref64} {
			s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}, Prefix: p, Private: private})
			if got := send(t, s, "udp", query("priv.example.", "AAAA")); len(got.Answer) != want {
				t.Errorf("%v, private %d: %v", p, private, got)
			}
		}
	}
}

// TestSizes: EDNS, truncation, TCP on both sides.
func TestSizes(t *testing.T) {
	var big strings.Builder
	for i := range 200 {
		fmt.Fprintf(&big, "big.example. 300 A 192.0.2.%d\n", i)
	}
	r := startResolver(t, map[string]string{"big.example. A": big.String()}) // 3.2 KB: TC, and TCP, upstream
	s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}})
	for _, c := range []struct {
		network   string
		size      uint16
		most      int
		truncated bool
	}{
		{"udp", 0, 512, true}, {"udp", 100, 512, true}, {"udp", 900, 900, true}, {"udp", 4096, 1232, true}, {"tcp", 0, 65535, false}, {"tcp", 1232, 65535, false},
	} {
		q := query("big.example.", "AAAA")
		if c.size > 0 {
			q.SetEdns0(c.size, false)
		}
		cl := dns.Client{Net: c.network, UDPSize: 65535}
		conn, err := cl.Dial(s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		conn.UDPSize = 65535
		if err := conn.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
		data, err := conn.ReadMsgHeader(nil)
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		got := new(dns.Msg)
		if err := got.Unpack(data); err != nil {
			t.Fatal(err)
		}
		if len(data) > c.most || got.Truncated != c.truncated || !c.truncated && len(got.Answer) != 200 || c.truncated && len(got.Answer) == 0 {
			t.Errorf("%+v: %d bytes, truncated %v, %d answers", c, len(data), got.Truncated, len(got.Answer))
		}
	}
	q := query("big.example.", "AAAA")
	q.SetEdns0(1232, false)
	q.IsEdns0().SetVersion(1)
	if got := send(t, s, "udp", q); got.Rcode != dns.RcodeBadVers || got.IsEdns0() == nil || got.IsEdns0().Version() != 0 {
		t.Errorf("EDNS version 1: %v", got)
	}
	if n := s.Stats().Failures["truncated"]; n != 4 {
		t.Errorf("%d counted as truncated", n)
	}
}

// TestFailover: resolvers that are dead, fail, or are impersonated.
func TestFailover(t *testing.T) {
	answer := map[string]string{"six.example. AAAA": "six.example. 300 AAAA 2001:db8:1::1"}
	good := startResolver(t, answer)
	dead := startResolver(t, map[string]string{"six.example. AAAA": "silent", "six.example. TXT": "silent"})
	failing := startResolver(t, map[string]string{"six.example. AAAA": "SERVFAIL"})
	refusing := startResolver(t, map[string]string{"six.example. AAAA": "REFUSED"})
	const want = "NOERROR\nsix.example. 300 AAAA 2001:db8:1::1"
	for name, up := range map[string][]netip.AddrPort{
		"nobody there": {nobody, good.addr}, "dead": {dead.addr, good.addr}, "failing": {failing.addr, good.addr},
		"refusing": {refusing.addr, good.addr}, "all but one": {dead.addr, failing.addr, nobody, good.addr},
	} {
		s := start(t, dns64.Options{Upstream: up, Timeout: 300 * time.Millisecond})
		if d := cmp.Diff(want, show(send(t, s, "udp", query("six.example.", "AAAA")))); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		// The one that answered is asked first from now on.
		dead.questions()
		failing.questions()
		send(t, s, "tcp", query("six.example.", "AAAA"))
		if asked := append(dead.questions(), failing.questions()...); len(asked) > 0 {
			t.Errorf("%s: asked first again: %v", name, asked)
		}
	}
	// Answers to another identifier, or another question, or rubbish, are waited out.
	forged := startResolver(t, answer)
	forged.hook(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		rr, _ := dns.NewRR("six.example. 300 AAAA 2001:db8:bad::1")
		m.Answer = []dns.RR{rr}
		m.Id++
		w.WriteMsg(m)
		m.Id--
		m.Question = []dns.Question{{Name: "seven.example.", Qtype: dns.TypeAAAA, Qclass: dns.ClassINET}}
		w.WriteMsg(m)
		w.Write([]byte("rubbish"))
		w.Write([]byte("rubbish that is longer than a header"))
	})
	s := start(t, dns64.Options{Upstream: []netip.AddrPort{forged.addr}})
	if d := cmp.Diff(want, show(send(t, s, "udp", query("six.example.", "AAAA")))); d != "" {
		t.Errorf("forged (-want +got):\n%s", d)
	}
}

// TestWhoMayAsk: others get REFUSED, by TCP not even that.
func TestWhoMayAsk(t *testing.T) {
	r := startResolver(t, nil)
	s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}, AllowFrom: []netip.Prefix{netip.MustParsePrefix("2001:db8:a::/64")}})
	if got := show(send(t, s, "udp", query("ipv4only.arpa.", "AAAA"))); got != "REFUSED" {
		t.Error(got)
	}
	c, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes", n)
	}
	if n := s.Stats().Failures["not_allowed"]; n != 2 {
		t.Errorf("%d counted", n)
	}
	if asked := r.questions(); len(asked) > 0 {
		t.Errorf("asked %v", asked)
	}
}

// TestRefused: what a forwarder of questions does not do.
func TestRefused(t *testing.T) {
	r := startResolver(t, nil)
	s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}})
	notify := query("six.example.", "SOA")
	notify.Opcode = dns.OpcodeNotify
	update := query("six.example.", "SOA")
	update.Opcode = dns.OpcodeUpdate
	two := query("six.example.", "AAAA")
	two.Question = append(two.Question, two.Question[0])
	for want, q := range map[string]*dns.Msg{
		"NOTIMP": notify, "NOTIMP\n": update, "FORMERR": two, "REFUSED": query("six.example.", "AXFR"), "FORMERR\n": query("six.example.", "OPT"),
	} {
		if got := show(send(t, s, "udp", q)); got != strings.TrimSpace(want) {
			t.Errorf("%v: %s, want %s", q.Question, got, want)
		}
	}
	if asked := r.questions(); len(asked) > 0 {
		t.Errorf("asked %v", asked)
	}
}

// TestLoop: two that ask each other stop where the circle closes.
func TestLoop(t *testing.T) {
	oa := dns64.Options{Listen: []netip.AddrPort{loopback}, Upstream: []netip.AddrPort{nobody}, Prefix: pref64}
	a := start(t, oa)
	b := start(t, dns64.Options{Upstream: a.Addrs()})
	oa.Upstream = b.Addrs()
	if err := a.Reload(oa); err != nil {
		t.Fatal(err)
	}
	if got := show(send(t, a, "udp", query("six.example.", "AAAA"))); got != "REFUSED" {
		t.Error(got)
	}
	sa, sb := a.Stats(), b.Stats()
	// AAAA and A of a; for each, AAAA and A, or A, of b; all refused by a.
	if sa.Queries["udp"] != 4 || sa.Failures["loop"] != 3 || sb.Queries["udp"] != 2 {
		t.Errorf("a %+v\nb %+v", sa, sb)
	}
	// A chain that is only too long ends, too.
	q := query("six.example.", "AAAA")
	q.SetEdns0(1232, false)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65464, Data: make([]byte, 32)}}
	if got := show(send(t, b, "udp", q)); got != "REFUSED" {
		t.Error(got)
	}
}

// TestOverload: questions beyond MaxInFlight, connections beyond MaxConns.
func TestOverload(t *testing.T) {
	r := startResolver(t, nil)
	arrived, release := make(chan struct{}), make(chan struct{})
	r.hook(func(dns.ResponseWriter, *dns.Msg) { arrived <- struct{}{}; <-release })
	s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}, MaxInFlight: 1, MaxConns: 1, Timeout: 10 * time.Second})
	first := make(chan *dns.Msg)
	go func() {
		c := dns.Client{Timeout: 20 * time.Second}
		m, _, _ := c.Exchange(query("six.example.", "TXT"), s.Addrs()[0].String())
		first <- m
	}()
	<-arrived
	if got := show(send(t, s, "udp", query("six.example.", "TXT"))); got != "SERVFAIL" {
		t.Error(got)
	}
	// What needs nobody is still answered.
	if got := send(t, s, "udp", query("ipv4only.arpa.", "AAAA")); len(got.Answer) != 2 {
		t.Error(got)
	}
	if st := s.Stats(); st.InFlight != 1 || st.Failures["overload"] != 1 {
		t.Errorf("%+v", st)
	}
	close(release)
	if m := <-first; m == nil || m.Rcode != dns.RcodeSuccess {
		t.Errorf("first: %v", m)
	}

	one := dns.Client{Net: "tcp"}
	c, err := one.Dial(s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := one.ExchangeWithConn(query("ipv4only.arpa.", "AAAA"), c); err != nil {
		t.Error(err)
	}
	if m, _, err := one.Exchange(query("ipv4only.arpa.", "AAAA"), s.Addrs()[0].String()); err == nil {
		t.Errorf("second connection: %v", m)
	}
	c.Close()
	for s.Stats().Conns > 0 { // its place is free once the server has seen the end
		time.Sleep(time.Millisecond)
	}
	send(t, s, "tcp", query("ipv4only.arpa.", "AAAA"))
}

// TestStop: Run returns while questions wait.
func TestStop(t *testing.T) {
	r := startResolver(t, map[string]string{"six.example. AAAA": "silent"})
	arrived := make(chan struct{}, 9)
	r.hook(func(dns.ResponseWriter, *dns.Msg) { arrived <- struct{}{} })
	s, err := dns64.New(dns64.Options{Listen: []netip.AddrPort{loopback}, Upstream: []netip.AddrPort{r.addr}, Prefix: pref64, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	for _, network := range []string{"udp", "tcp"} {
		conn, err := (&dns.Client{Net: network}).Dial(s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.WriteMsg(query("six.example.", "AAAA")); err != nil {
			t.Fatal(err)
		}
		<-arrived
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.InFlight != 0 || st.Conns != 0 {
		t.Errorf("%+v", st)
	}
	// Before Run has begun, too.
	s, err = dns64.New(dns64.Options{Listen: []netip.AddrPort{s.Addrs()[0]}, Upstream: []netip.AddrPort{r.addr}, Prefix: pref64})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

// TestReload: other settings under way; a bad reload changes nothing.
func TestReload(t *testing.T) {
	r := startResolver(t, map[string]string{"four.example. A": "four.example. 300 A 192.0.2.33"})
	o := dns64.Options{Listen: []netip.AddrPort{loopback}, Upstream: []netip.AddrPort{r.addr}, Prefix: pref64}
	s := start(t, o)
	ask := func() string { return show(send(t, s, "udp", query("four.example.", "AAAA"))) }
	before := ask()
	o.Prefix = netip.MustParsePrefix("2001:db8:64::/95")
	if err := s.Reload(o); !errors.Is(err, dns64.ErrOptions) {
		t.Errorf("bad reload: %v", err)
	}
	if got := ask(); got != before {
		t.Errorf("a bad reload changed %s to %s", before, got)
	}
	o.Prefix = netip.MustParsePrefix("2001:db8:65::/96")
	if err := s.Reload(o); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "NOERROR\nfour.example. 300 AAAA 2001:db8:65::c000:221" {
		t.Error(got)
	}
	o.Listen = s.Addrs()
	if err := s.Reload(o); err == nil || !strings.HasPrefix(err.Error(), "listen: ") {
		t.Errorf("other listeners: %v", err)
	}
}

// TestBadOptions: each error begins with the field's name.
func TestBadOptions(t *testing.T) {
	ap, pf := netip.MustParseAddrPort, netip.MustParsePrefix
	for want, change := range map[string]func(*dns64.Options){
		"listen: ":      func(o *dns64.Options) { o.Listen = nil },
		"listen[1]: ":   func(o *dns64.Options) { o.Listen = []netip.AddrPort{ap("[::1]:53"), ap("[::1]:53")} },
		"upstream: ":    func(o *dns64.Options) { o.Upstream = nil },
		"upstream[0]: ": func(o *dns64.Options) { o.Upstream = []netip.AddrPort{ap("[::]:53")} },
		"upstream[1]: ": func(o *dns64.Options) { o.Upstream = []netip.AddrPort{ap("[2001:db8::1]:53"), ap("[::1]:5353")} },
		"upstream[0]:": func(o *dns64.Options) {
			o.Listen, o.Upstream = []netip.AddrPort{ap("[::]:53")}, []netip.AddrPort{ap("[::1]:53")}
		},
		"prefix: ":        func(o *dns64.Options) { o.Prefix = netip.Prefix{} },
		"prefix:":         func(o *dns64.Options) { o.Prefix = pf("2001:db8:64::/80") },
		"private: ":       func(o *dns64.Options) { o.Private = 9 },
		"exclude[0]: ":    func(o *dns64.Options) { o.Exclude = []netip.Prefix{pf("10.0.0.0/8")} },
		"allow_from[0]: ": func(o *dns64.Options) { o.AllowFrom = []netip.Prefix{pf("::/0")} },
		"allow_from[0]:":  func(o *dns64.Options) { o.AllowFrom = []netip.Prefix{pf("0.0.0.0/0")} },
		"allow_from[0]":   func(o *dns64.Options) { o.AllowFrom = []netip.Prefix{pf("2000::/3")} },
		"allow_from[1]: ": func(o *dns64.Options) { o.AllowFrom = []netip.Prefix{pf("fc00::/7"), pf("2001:db8::1/64")} },
		"timeout: ":       func(o *dns64.Options) { o.Timeout = -1 },
		"max_in_flight: ": func(o *dns64.Options) { o.MaxInFlight = -1 },
		"max_conns: ":     func(o *dns64.Options) { o.MaxConns = -1 },
	} {
		o := dns64.Options{Listen: []netip.AddrPort{ap("[::1]:5353")}, Upstream: []netip.AddrPort{ap("[2001:db8::1]:53")}, Prefix: pref64}
		if err := o.Check(); err != nil {
			t.Fatal(err)
		}
		change(&o)
		if err := o.Check(); !errors.Is(err, dns64.ErrOptions) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("want %q…, got %v", want, err)
		}
		if s, err := dns64.New(o); err == nil {
			t.Errorf("%s: New takes it", want)
			s.Close()
		}
	}
	// The address is taken: an error, and nothing left open.
	first := start(t, dns64.Options{Upstream: []netip.AddrPort{nobody}})
	if _, err := dns64.New(dns64.Options{Listen: []netip.AddrPort{loopback, first.Addrs()[0]}, Upstream: []netip.AddrPort{nobody}, Prefix: pref64}); err == nil ||
		!strings.HasPrefix(err.Error(), "listen[1]: ") {
		t.Errorf("taken: %v", err)
	}
}

// TestNamespace: all sockets are in the namespace; an address may come later.
func TestNamespace(t *testing.T) {
	const name = "d-dns64"
	ns, err := netio.CreateNS(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close(); netio.DeleteNS(name) })
	var r *resolver
	if err := ns.Do(func() error { // the sockets are made on this thread
		r = startResolver(t, map[string]string{"four.example. A": "four.example. 300 A 192.0.2.33"})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	start(t, dns64.Options{
		Listen:   []netip.AddrPort{netip.MustParseAddrPort("[::1]:53"), netip.MustParseAddrPort("[2001:db8:e::53]:53"), netip.MustParseAddrPort("192.0.2.53:53")},
		Upstream: []netip.AddrPort{r.addr}, NS: ns, AllowFrom: []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.0/24")},
	})
	dig := func(at, how string) {
		t.Helper()
		out, err := exec.Command("ip", "netns", "exec", name, "dig", "@"+at, how, "+short", "four.example", "AAAA").CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != "2001:db8:64::c000:221" {
			t.Errorf("dig at %s %s: %v: %s", at, how, err, got)
		}
	}
	dig("::1", "+notcp")
	for _, p := range []string{"2001:db8:e::53/128", "192.0.2.53/32"} {
		if err := ns.AddAddr("lo", netip.MustParsePrefix(p)); err != nil {
			t.Fatal(err)
		}
		dig(netip.MustParsePrefix(p).Addr().String(), "+notcp")
		dig(netip.MustParsePrefix(p).Addr().String(), "+tcp")
	}
}
