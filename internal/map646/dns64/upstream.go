package dns64

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// loopOption is the EDNS option (of the range for local use, RFC 6891 §9) by
// which Servers know their own questions again: the identities of those that
// have passed a question on, 8 bytes each. Resolvers ignore it (RFC 6891 §6.1.2).
const loopOption = 65464

// maxHops is how many Servers may pass one question on.
const maxHops = 4

// bufferSize is the size of UDP answers that is asked for and given at most:
// what fits the smallest IPv6 MTU, so that nothing is fragmented (RFC 9715).
const bufferSize = 1232

// errTimeout: no resolver answered.
var errTimeout = errors.New("no resolver answered")

// ask is what a question inherits from the client's.
type ask struct {
	set        *settings
	do, cd, ad bool
	rd         bool
	trail      []byte // the identities of loopOption
}

// question makes the message to a resolver. The client's other EDNS options are
// for us, not for the next hop (RFC 6891 §6.1.1), and stay here.
func (s *Server) question(a *ask, name string, qtype, class uint16) *dns.Msg {
	m := new(dns.Msg)
	m.Id = dns.Id()
	m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = a.rd, a.cd, a.ad
	m.Question = []dns.Question{{Name: name, Qtype: qtype, Qclass: class}}
	m.SetEdns0(bufferSize, a.do)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: loopOption, Data: append(bytes.Clone(a.trail), s.id[:]...)}}
	return m
}

// exchange asks the resolvers, beginning with the one that answered last, each at
// most twice and all within two Timeouts, of which each has its share. SERVFAIL and REFUSED may be one
// resolver's own trouble, so the next is asked; if all say so, that is the answer.
func (s *Server) exchange(ctx context.Context, a *ask, name string, qtype, class uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*a.set.timeout)
	defer cancel()
	var refused *dns.Msg
	n := len(a.set.upstream)
	first := int(a.set.preferred.Load())
	patience := 2 * a.set.timeout / time.Duration(max(n, 2))
	for try := 0; try < 2*n && ctx.Err() == nil; try++ {
		if try == n && refused != nil {
			break // who has answered would answer the same
		}
		i := (first + try) % n
		r, err := s.once(ctx, patience, s.question(a, name, qtype, class), a.set.upstream[i])
		if err != nil {
			if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.fail(failSilent)
				s.log.Debug("resolver does not answer", "resolver", a.set.upstream[i], "err", err)
			}
			continue
		}
		if r.Rcode == dns.RcodeServerFailure && !bogus(r) || r.Rcode == dns.RcodeRefused {
			refused = r
			continue
		}
		a.set.preferred.Store(uint32(i))
		return r, nil
	}
	if refused != nil {
		return refused, nil
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	return nil, errTimeout
}

// once asks one resolver by UDP and, if the answer was cut off, by TCP.
func (s *Server) once(ctx context.Context, patience time.Duration, q *dns.Msg, to netip.AddrPort) (*dns.Msg, error) {
	r, err := s.over(ctx, "udp", patience, q, to)
	if err == nil && r.Truncated {
		return s.over(ctx, "tcp", patience, q, to)
	}
	return r, err
}

// over asks by one transport, from a socket of its own, whose port the kernel
// draws at random (RFC 5452 §9.2). What is not the answer is not an error: it is
// as if it had not come (RFC 5452 §9.1), but for a TCP peer, who is the resolver.
func (s *Server) over(ctx context.Context, network string, patience time.Duration, q *dns.Msg, to netip.AddrPort) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var c net.Conn
	err := s.do(func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	// Reads end with the patience, or when the Server stops.
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	conn := &dns.Conn{Conn: c, UDPSize: dns.DefaultMsgSize}
	if err := conn.WriteMsg(q); err != nil {
		return nil, err
	}
	for {
		data, err := conn.ReadMsgHeader(nil)
		if err != nil && (network == "tcp" || !errors.Is(err, dns.ErrShortRead)) {
			return nil, err
		}
		r := new(dns.Msg)
		if err == nil {
			err = r.Unpack(data)
		}
		if err == nil {
			err = writable(r)
		}
		if err == nil && !answers(r, q) {
			err = dns.ErrId
		}
		if err == nil {
			return r, nil
		}
		if network == "tcp" {
			return nil, err
		}
	}
}

// answers: r is the answer to q.
func answers(r, q *dns.Msg) bool {
	return r.Response && r.Id == q.Id && r.Opcode == dns.OpcodeQuery && len(r.Question) == 1 &&
		r.Question[0].Qtype == q.Question[0].Qtype && r.Question[0].Qclass == q.Question[0].Qclass &&
		strings.EqualFold(r.Question[0].Name, q.Question[0].Name)
}

// writable: the library takes records that end too early, which it then writes
// as something that nobody can read. Such an answer is no better than none.
func writable(r *dns.Msg) error {
	wire, err := r.Pack()
	if err != nil {
		return err
	}
	return new(dns.Msg).Unpack(wire)
}

// bogus: the resolver has data that does not validate (RFC 8914 §4.6 to §4.13).
func bogus(r *dns.Msg) bool {
	o := r.IsEdns0()
	if o == nil {
		return false
	}
	for _, e := range o.Option {
		if e, ok := e.(*dns.EDNS0_EDE); ok {
			switch e.InfoCode {
			case dns.ExtendedErrorCodeDNSSECIndeterminate, dns.ExtendedErrorCodeDNSBogus, dns.ExtendedErrorCodeSignatureExpired,
				dns.ExtendedErrorCodeSignatureNotYetValid, dns.ExtendedErrorCodeDNSKEYMissing, dns.ExtendedErrorCodeRRSIGsMissing,
				dns.ExtendedErrorCodeNoZoneKeyBitSet, dns.ExtendedErrorCodeNSECMissing, dns.ExtendedErrorCodeSignatureExpiredBeforeValid:
				return true
			}
		}
	}
	return false
}
