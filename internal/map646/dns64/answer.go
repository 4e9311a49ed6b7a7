package dns64

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"widecloud/internal/packet/siit"
)

// ServeDNS answers one question (dns.Handler).
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	if udp {
		s.stats.udp.Add(1)
	} else {
		s.stats.tcp.Add(1)
	}
	if req.Response {
		return // RFC 1035 §7.3; an answer to it could go round for ever
	}
	m := s.handle(w.RemoteAddr(), req)
	if m == nil {
		return
	}
	size := dns.MaxMsgSize
	if udp {
		size = dns.MinMsgSize
		if o := req.IsEdns0(); o != nil {
			size = min(max(size, int(o.UDPSize())), bufferSize)
		}
	}
	m.Truncate(size)
	m.Compress = true
	if m.Truncated && udp {
		s.fail(failTruncated)
	}
	if err := w.WriteMsg(m); err != nil {
		s.log.Debug("cannot answer", "to", w.RemoteAddr(), "err", err)
	}
}

// reply begins an answer.
func reply(req *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.Id, m.Response, m.Opcode, m.Rcode = req.Id, true, req.Opcode, rcode
	m.RecursionDesired, m.RecursionAvailable, m.CheckingDisabled = req.RecursionDesired, true, req.CheckingDisabled
	if len(req.Question) == 1 {
		m.Question = req.Question
	}
	if o := req.IsEdns0(); o != nil {
		m.SetEdns0(bufferSize, o.Do())
	}
	return m
}

// handle makes the answer; nil: the Server is stopping.
func (s *Server) handle(from net.Addr, req *dns.Msg) *dns.Msg {
	refuse := func(f failure, rcode int) *dns.Msg {
		s.fail(f)
		return reply(req, rcode)
	}
	set := s.settings.Load()
	switch {
	case !set.mayAsk(from):
		return refuse(failNotAllowed, dns.RcodeRefused)
	case req.Opcode != dns.OpcodeQuery:
		return refuse(failNotImplemented, dns.RcodeNotImplemented)
	case len(req.Question) != 1:
		return refuse(failMalformed, dns.RcodeFormatError)
	}
	q := req.Question[0]
	a := &ask{set: set, cd: req.CheckingDisabled, ad: req.AuthenticatedData, rd: req.RecursionDesired}
	if o := req.IsEdns0(); o != nil {
		if o.Version() != 0 { // RFC 6891 §6.1.3
			return refuse(failNotImplemented, dns.RcodeBadVers)
		}
		a.do = o.Do()
		for _, e := range o.Option {
			if l, ok := e.(*dns.EDNS0_LOCAL); ok && l.Code == loopOption {
				a.trail = l.Data
			}
		}
	}
	if len(a.trail)%8 != 0 || len(a.trail)/8 >= maxHops {
		return refuse(failLoop, dns.RcodeRefused)
	}
	for id := range slices.Chunk(a.trail, 8) {
		if [8]byte(id) == s.id {
			return refuse(failLoop, dns.RcodeRefused)
		}
	}
	switch {
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		// Many messages for one question; we have no zones.
		return refuse(failNotImplemented, dns.RcodeRefused)
	case q.Qtype == dns.TypeOPT || q.Qtype == dns.TypeTSIG || q.Qtype == dns.TypeNone:
		return refuse(failMalformed, dns.RcodeFormatError)
	}
	// Who sets both validates for himself, and what we made would be bogus to him
	// (RFC 6147 §5.5, 3).
	synthesise := q.Qclass == dns.ClassINET && !(a.do && a.cd)
	if q.Qclass == dns.ClassINET {
		if m := s.special(set, req, synthesise); m != nil {
			s.stats.local.Add(1)
			return m
		}
	}

	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return refuse(failOverload, dns.RcodeServerFailure)
	}
	ctx := s.ctx
	if synthesise && q.Qtype == dns.TypeAAAA {
		return s.aaaa(ctx, a, req)
	}
	if synthesise && q.Qtype == dns.TypePTR {
		if v4, ok := set.pointsTo(q.Name); ok {
			return s.ptr(ctx, a, req, v4)
		}
	}
	r, err := s.exchange(ctx, a, q.Name, q.Qtype, q.Qclass)
	return s.forward(a, req, r, err)
}

// forward makes a resolver's answer ours; SERVFAIL if there is none.
func (s *Server) forward(a *ask, req, r *dns.Msg, err error) *dns.Msg {
	if err != nil {
		if s.ctx.Err() != nil {
			return nil
		}
		s.fail(failUnanswered)
		return reply(req, dns.RcodeServerFailure)
	}
	m := reply(req, r.Rcode)
	m.Authoritative, m.RecursionAvailable = r.Authoritative, r.RecursionAvailable
	m.AuthenticatedData = r.AuthenticatedData && a.set.trustAD
	m.Answer, m.Ns = r.Answer, r.Ns
	m.Extra = append(withoutOPT(r.Extra), m.Extra...)
	if r.Rcode > 0xf && m.IsEdns0() == nil {
		m.Rcode = dns.RcodeServerFailure // BADVERS and its like need EDNS
	}
	// Why it failed is worth knowing (RFC 8914 §3); other options are per hop.
	if o, from := m.IsEdns0(), r.IsEdns0(); o != nil && from != nil {
		for _, e := range from.Option {
			if e, ok := e.(*dns.EDNS0_EDE); ok {
				o.Option = append(o.Option, e)
			}
		}
	}
	return m
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	return slices.DeleteFunc(slices.Clone(rrs), func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeOPT })
}

// aaaa is RFC 6147 §5.1.
func (s *Server) aaaa(ctx context.Context, a *ask, req *dns.Msg) *dns.Msg {
	q := req.Question[0]
	r6, err6 := s.exchange(ctx, a, q.Name, dns.TypeAAAA, q.Qclass)
	excluded := false
	switch {
	case err6 != nil:
		// No answer counts as SERVFAIL, and that as an empty answer (§5.1.3, §5.1.2).
		if s.ctx.Err() != nil {
			return nil
		}
	case r6.Rcode == dns.RcodeNameError:
		return s.forward(a, req, r6, nil) // §5.1.2
	case bogus(r6):
		// There may be a AAAA record that somebody hides: §5.5, 2, against §5.1.2's
		// "any other RCODE".
		s.fail(failBogus)
		return s.forward(a, req, r6, nil)
	case r6.Rcode == dns.RcodeSuccess:
		var usable bool
		if usable, excluded = a.set.sift(r6); usable {
			m := s.forward(a, req, r6, nil)
			m.AuthenticatedData = m.AuthenticatedData && !excluded
			return m
		}
	}

	r4, err := s.exchange(ctx, a, q.Name, dns.TypeA, q.Qclass)
	if err != nil || r4.Rcode != dns.RcodeSuccess {
		return s.forward(a, req, r4, err) // §5.1.6: the error is the answer
	}
	ttl := uint32(600) // §5.1.7, if there is no SOA
	clean := err6 == nil && r6.Rcode == dns.RcodeSuccess && !excluded
	if clean {
		ttl = negativeTTL(r6, ttl)
	}
	m := s.forward(a, req, r4, nil)
	m.Answer, m.Authoritative = nil, false
	made := 0
	for _, rr := range r4.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			v6, ok := a.set.synthesise(rr.A)
			if !ok {
				s.fail(failNotGlobal)
				continue
			}
			made++
			m.Answer = append(m.Answer, &dns.AAAA{
				Hdr:  dns.RR_Header{Name: rr.Hdr.Name, Rrtype: dns.TypeAAAA, Class: rr.Hdr.Class, Ttl: min(rr.Hdr.Ttl, ttl)},
				AAAA: v6.AsSlice(),
			})
		case *dns.RRSIG:
			if rr.TypeCovered != dns.TypeA { // there is nothing left that it covers
				m.Answer = append(m.Answer, rr)
			}
		default:
			m.Answer = append(m.Answer, rr) // CNAME, DNAME (§5.1.5)
		}
	}
	if made == 0 {
		if clean {
			// Both are empty; this one has the SOA, and the proof, for what was asked.
			return s.forward(a, req, r6, nil)
		}
		m.AuthenticatedData = false
		return m
	}
	s.stats.synthesised.Add(1)
	// Only if both have been validated, that there is no AAAA and what A is (§5.5, 2).
	m.AuthenticatedData = m.AuthenticatedData && clean && r6.AuthenticatedData
	return m
}

// sift takes AAAA records that count as absent, and their signatures, out of an
// answer (§5.1.4), and says whether others are left, and whether any were taken.
func (s *settings) sift(r *dns.Msg) (usable, excluded bool) {
	for _, rr := range r.Answer {
		if aaaa, ok := rr.(*dns.AAAA); ok {
			if s.excluded(aaaa.AAAA) {
				excluded = true
			} else {
				usable = true
			}
		}
	}
	if excluded {
		r.Answer = slices.DeleteFunc(r.Answer, func(rr dns.RR) bool {
			switch rr := rr.(type) {
			case *dns.AAAA:
				return s.excluded(rr.AAAA)
			case *dns.RRSIG:
				return rr.TypeCovered == dns.TypeAAAA
			}
			return false
		})
	}
	return usable, excluded
}

func (s *settings) excluded(ip net.IP) bool {
	to16 := ip.To16()
	if to16 == nil {
		return true // no address at all
	}
	a := netip.AddrFrom16([16]byte(to16))
	return slices.ContainsFunc(s.exclude, func(p netip.Prefix) bool { return p.Contains(a) })
}

// negativeTTL is how long an empty answer may be kept: by the SOA's TTL, which
// RFC 2308 §3 bounds by its MINIMUM, where not all do.
func negativeTTL(r *dns.Msg, without uint32) uint32 {
	for _, rr := range r.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(soa.Hdr.Ttl, soa.Minttl)
		}
	}
	return without
}

// synthesise embeds an address, unless no translator would forward it.
func (s *settings) synthesise(ip net.IP) (netip.Addr, bool) {
	to4 := ip.To4()
	if to4 == nil {
		return netip.Addr{}, false
	}
	a := netip.AddrFrom4([4]byte(to4))
	// "This network", loopback, multicast, reserved and broadcast: nobody's address,
	// whatever the prefix.
	if to4[0] == 0 || to4[0] == 127 || to4[0] >= 224 {
		return netip.Addr{}, false
	}
	if !s.table.AllowsPrivate() && slices.ContainsFunc(siit.NonGlobal4[:], func(p netip.Prefix) bool { return p.Contains(a) }) {
		return netip.Addr{}, false
	}
	return s.table.Embed(a)
}

// pointsTo is the IPv4 address behind a name of ip6.arpa under the prefix.
func (s *settings) pointsTo(name string) (netip.Addr, bool) {
	rest, ok := strings.CutSuffix(strings.ToLower(name), ".ip6.arpa.")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range 32 {
		n := strings.IndexByte("0123456789abcdef", rest[2*i])
		if n < 0 || i < 31 && rest[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		a[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	v6 := netip.AddrFrom16(a)
	v4, ok := s.table.Extract(v6)
	if !ok {
		return netip.Addr{}, false
	}
	// With prefixes shorter than 96, many addresses have the same IPv4 address in
	// them; we make one of them.
	back, ok := s.table.Embed(v4)
	return v4, ok && back == v6
}

// inAddr is the name of an IPv4 address's PTR record.
func inAddr(a netip.Addr) string {
	n, _ := dns.ReverseAddr(a.String()) // of an address, it cannot fail
	return n
}

// ptr is RFC 6147 §5.3.1, the second way: a CNAME to the IPv4 address's name.
func (s *Server) ptr(ctx context.Context, a *ask, req *dns.Msg, v4 netip.Addr) *dns.Msg {
	q := req.Question[0]
	name := inAddr(v4)
	r, err := s.exchange(ctx, a, name, dns.TypePTR, q.Qclass)
	if err != nil {
		return s.forward(a, req, nil, err)
	}
	m := s.forward(a, req, r, nil)
	m.Answer, m.Authoritative = nil, false
	var pointers []*dns.PTR
	chain := false
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.PTR:
			pointers = append(pointers, rr)
		case *dns.CNAME, *dns.DNAME:
			chain = true
		}
	}
	switch {
	case len(pointers) == 0:
		// No CNAME to nothing. The SOA is of another tree than the question.
		m.Ns, m.AuthenticatedData = nil, false
		return m
	case chain:
		// A CNAME should not lead to a CNAME (RFC 2317 makes them): the first way
		// then, an answer of our own.
		for _, p := range pointers {
			m.Answer = append(m.Answer, &dns.PTR{
				Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: p.Hdr.Ttl}, Ptr: p.Ptr,
			})
		}
		m.Ns = nil
	default:
		m.Answer = append([]dns.RR{&dns.CNAME{
			Hdr:    dns.RR_Header{Name: q.Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: pointers[0].Hdr.Ttl},
			Target: name,
		}}, r.Answer...)
	}
	s.stats.pointers.Add(1)
	return m
}

// ipv4only is the name by whose AAAA records clients learn the prefix (RFC 7050),
// and the addresses behind it.
const ipv4only = "ipv4only.arpa."

var ipv4onlyAddrs = []netip.Addr{netip.MustParseAddr("192.0.0.170"), netip.MustParseAddr("192.0.0.171")}

// ipv4onlyTTL is how long clients may believe in a prefix, in seconds.
const ipv4onlyTTL = 600

// special answers for ipv4only.arpa and its reverse names, which must not be
// asked of anybody (RFC 8880 §7); nil: not one of them. DS is the parent's.
func (s *Server) special(set *settings, req *dns.Msg, synthesise bool) *dns.Msg {
	q := req.Question[0]
	name := strings.ToLower(q.Name)
	v4, reverse := set.pointsTo(name)
	reverse = reverse && synthesise && slices.Contains(ipv4onlyAddrs, v4)
	for _, a := range ipv4onlyAddrs {
		reverse = reverse || name == inAddr(a)
	}
	below := strings.HasSuffix(name, "."+ipv4only)
	if !reverse && !below && name != ipv4only || q.Qtype == dns.TypeDS && !below {
		return nil
	}
	m := reply(req, dns.RcodeSuccess)
	m.Authoritative = true
	h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ipv4onlyTTL}
	switch {
	case below:
		m.Rcode = dns.RcodeNameError
	case reverse && q.Qtype == dns.TypePTR:
		m.Answer = append(m.Answer, &dns.PTR{Hdr: h, Ptr: ipv4only})
	case !reverse && q.Qtype == dns.TypeA:
		for _, a := range ipv4onlyAddrs {
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		}
	case !reverse && q.Qtype == dns.TypeAAAA && synthesise:
		for _, a := range ipv4onlyAddrs {
			// Also under the well-known prefix: this is what it is for (RFC 7050 §3).
			if v6, ok := set.table.Embed(a); ok {
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: v6.AsSlice()})
			}
		}
	}
	if len(m.Answer) == 0 { // RFC 2308 §3
		apex := q.Name
		if !reverse {
			apex = ipv4only
		}
		m.Ns = append(m.Ns, &dns.SOA{
			Hdr: dns.RR_Header{Name: apex, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ipv4onlyTTL},
			Ns:  apex, Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ipv4onlyTTL,
		})
	}
	return m
}
