package siit

// Headroom is what a Packet needs in front of it, in bytes, for whatever
// headers may grow: two IPv6 headers with fragment headers instead of two IPv4
// headers are 56; the rest is for the caller's virtio-net header.
const Headroom = 128

// Virtio-net GSO types (virtio 1.2 §5.1.6).
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDPL4 = 5
	GSOECN   = 0x80
)

// Offload is what a virtio-net header says about a packet. The zero value says
// nothing: checksums are complete, one packet is one packet.
type Offload struct {
	// NeedsCsum: the field at CsumStart+CsumOffset holds the bare sum of the
	// pseudo-header.
	NeedsCsum bool
	// DataValid: a device has found the checksum right.
	DataValid             bool
	GSOType               uint8
	HdrLen, GSOSize       uint16
	CsumStart, CsumOffset uint16
}

// Packet is an IP packet at Buf[Off:Off+Len].
type Packet struct {
	Buf      []byte
	Off, Len int
	Offload  Offload
}

// Bytes returns the packet.
func (p *Packet) Bytes() []byte { return p.Buf[p.Off : p.Off+p.Len] }

// Action is what the caller has to do.
type Action uint8

const (
	// Drop: forget the packet.
	Drop Action = iota
	// Send: forward the packet, which is now translated.
	Send
	// SendFragments: as Send, but in pieces: Packet.Fragments.
	SendFragments
	// Reject: the packet is as it was; answer its source with Verdict.Error.
	Reject
)

// Verdict is the outcome of one translation.
type Verdict struct {
	Action Action
	Reason Reason
	// Outbound: Mapping was found by the packet's source, so the packet leaves its
	// machine. Otherwise it was found by the destination.
	Outbound bool
	// Mapping is the Entry.ID whose counters a packet belongs to that is sent:
	// that of the destination, if both ends of an IPv6 packet are mapped. NoEntry if
	// there is none, or the packet is not sent.
	Mapping uint32
	// Error is set for Reject.
	Error ICMPError
}

// ICMPError describes an ICMP or ICMPv6 error (by the version of the packet
// that it is about). Info is the second word of the ICMP header: MTU, pointer.
type ICMPError struct {
	Type, Code uint8
	Info       uint32
}

// Reason says why a packet had its verdict, and is the index of its counter.
type Reason uint8

// The reasons. The first ones go with Send, the others with Drop or Reject.
const (
	FourToSix Reason = iota
	SixToFour
	SixToSix
	Unchanged
	NoMapping
	TTLExceeded
	TooBig
	Malformed
	BadHeaderChecksum
	BadICMPChecksum
	BadOffload
	BadSource
	NotForwardable
	SourceRoute
	RoutingHeader
	FragmentedICMP
	FragmentHeaders
	UDPNoChecksum
	UntranslatableProtocol
	UntranslatableICMP
	UntranslatableInner
	NoICMPSource
	PrivateAddress
	NumReasons = iota
)

var reasonNames = [NumReasons]string{
	"4to6", "6to4", "6to6", "unchanged", "no_mapping", "ttl_exceeded", "too_big", "malformed",
	"bad_header_checksum", "bad_icmp_checksum", "bad_offload", "bad_source", "not_forwardable",
	"source_route", "routing_header", "fragmented_icmp", "headers_behind_fragment",
	"udp_no_checksum", "untranslatable_protocol", "untranslatable_icmp", "untranslatable_inner",
	"no_icmp_source", "private_address",
}

// String returns the reason's name as statistics show it.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

const (
	protoHopByHop = 0
	protoICMP     = 1
	protoIGMP     = 2
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAH       = 51
	protoICMPv6   = 58
	protoNone     = 59
	protoDestOpts = 60

	minMTU6 = 1280
)

func drop(r Reason) Verdict { return Verdict{Action: Drop, Reason: r, Mapping: NoEntry} }

func reject(r Reason, typ, code uint8, info int) Verdict {
	return Verdict{Action: Reject, Reason: r, Mapping: NoEntry, Error: ICMPError{Type: typ, Code: code, Info: uint32(info)}}
}

func inbound(r Reason, m *record) Verdict { return Verdict{Action: Send, Reason: r, Mapping: m.id} }

func outbound(r Reason, m *record) Verdict {
	return Verdict{Action: Send, Reason: r, Mapping: m.id, Outbound: true}
}

// Translate translates the packet in place and says what to do with it. The
// buffer must have Headroom bytes before the packet.
func (t *Table) Translate(p *Packet) Verdict {
	if p.Off < 0 || p.Len < 1 || p.Off+p.Len > len(p.Buf) || p.Off < Headroom/2 {
		return drop(Malformed)
	}
	switch b := p.Bytes(); b[0] >> 4 {
	case 4:
		return t.from4(p, b)
	case 6:
		return t.from6(p, b)
	}
	return drop(Malformed)
}
