package lisp

import (
	"encoding/binary"
	"fmt"
)

// ControlPort and DataPort are LISP's UDP ports (RFC 9301 §5.1, RFC 9300 §5).
const (
	ControlPort = 4342
	DataPort    = 4341
)

// Types of control messages (RFC 9301 §5.1).
const (
	typeMapRequest   = 1
	typeMapReply     = 2
	typeMapRegister  = 3
	typeMapNotify    = 4
	typeMapNotifyAck = 5
	typeMapReferral  = 6
	typeInfo         = 7
	typeEncapsulated = 8
)

// Message is a *MapRequest, *MapReply, *MapRegister, *MapNotify or *Encapsulated.
type Message interface {
	// append appends the message, with zeros for the authentication data if it has any.
	append(b []byte) ([]byte, error)
	name() string
}

// XTR names a tunnel router, and the site that it belongs to, beyond its addresses (RFC 9301 §5.6).
type XTR struct {
	ID   [16]byte
	Site uint64
}

// MapRequest asks where an EID is (RFC 9301 §5.2, RFC 9437 §4).
type MapRequest struct {
	Nonce         uint64
	Authoritative bool // only the ETR itself may answer
	Probe         bool // is this locator reachable? (§7.1)
	Solicit       bool // SMR: ask again, what you have is old (§6.1)
	FromPITR      bool
	SMRInvoked    bool      // an SMR made me ask
	LocalXTR      bool      // the xTR that asks is at the site of the EID (the L bit)
	DontReply     bool      // no Map-Reply is wanted (the D bit)
	XTR           *XTR      // who asks, for a subscription
	Source        EID       // a host's, or none
	Locators      []Address // of the ITR, where the answer goes: 1 to 32
	EIDs          []Asked   // 1 to 255
}

// Asked is an EID that a MapRequest asks for.
type Asked struct {
	EID    EID
	Notify bool // and wants to be told of changes (RFC 9437 §4)
}

// MapReply says where EIDs are (RFC 9301 §5.4).
type MapReply struct {
	Nonce     uint64 // of the MapRequest
	Probe     bool   // answers a probe
	EchoNonce bool   // the ETR echoes nonces
	Records   []Record
}

// MapRegister tells a Map-Server where EIDs are (RFC 9301 §5.6).
type MapRegister struct {
	Nonce      uint64
	ProxyReply bool // the Map-Server may answer for the ETR
	Dynamic    bool // the E bit: a first hop has seen this EID
	UseTTL     bool // the records' TTL is the registration's, too
	Merge      bool // with what others register
	WantNotify bool
	XTR        *XTR
	Auth       Auth
	Records    []Record
}

// MapNotify confirms a registration, or tells a subscriber of a change (RFC 9301 §5.7, RFC 9437 §5). With Ack it is a
// Map-Notify-Ack, which answers one.
type MapNotify struct {
	Ack     bool
	Nonce   uint64
	Auth    Auth
	Records []Record
}

func (m *MapRequest) name() string  { return "Map-Request" }
func (m *MapReply) name() string    { return "Map-Reply" }
func (m *MapRegister) name() string { return "Map-Register" }
func (m *MapNotify) name() string {
	if m.Ack {
		return "Map-Notify-Ack"
	}
	return "Map-Notify"
}

// Append appends m to b. A message with authentication data is appended by Sign.
func Append(b []byte, m Message) ([]byte, error) {
	out, err := m.append(b)
	if err != nil {
		return b, fmt.Errorf("%s: %w", m.name(), err)
	}
	return out, nil
}

// Decode reads the control message that is the whole of a UDP payload. It does not look at authentication data.
func Decode(b []byte) (Message, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("LISP: an empty message")
	}
	var m interface {
		Message
		read(*reader)
	}
	switch t := b[0] >> 4; t {
	case typeMapRequest:
		m = new(MapRequest)
	case typeMapReply:
		m = new(MapReply)
	case typeMapRegister:
		m = new(MapRegister)
	case typeMapNotify, typeMapNotifyAck:
		m = &MapNotify{Ack: t == typeMapNotifyAck}
	case typeEncapsulated:
		m = new(Encapsulated)
	case typeMapReferral:
		return nil, fmt.Errorf("Map-Referral: %w", ErrUnsupported)
	case typeInfo:
		return nil, fmt.Errorf("Info-Request or -Reply: %w", ErrUnsupported)
	default:
		return nil, fmt.Errorf("LISP message of type %d: %w", t, ErrUnsupported)
	}
	r := &reader{b: b}
	m.read(r)
	r.end()
	if r.err != nil {
		return nil, fmt.Errorf("%s: %w", m.name(), r.err)
	}
	return m, nil
}

// flag is a word of 32 with one bit set, or none; the first bit is 0, as RFCs count.
func flag(n int, set bool) uint32 {
	if set {
		return 1 << (31 - n)
	}
	return 0
}

func bit(word uint32, n int) bool { return word&(1<<(31-n)) != 0 }

// count judges how many there are of something.
func count(what string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%d %s: %d to %d are possible", n, what, least, most)
	}
	return nil
}

func (m *MapRequest) append(b []byte) ([]byte, error) {
	if err := count("ITR locators", len(m.Locators), 1, 32); err != nil {
		return nil, err
	}
	if err := count("EIDs", len(m.EIDs), 1, 255); err != nil {
		return nil, err
	}
	b = binary.BigEndian.AppendUint32(b, typeMapRequest<<28|uint32(len(m.Locators)-1)<<8|uint32(len(m.EIDs))|
		flag(4, m.Authoritative)|flag(6, m.Probe)|flag(7, m.Solicit)|flag(8, m.FromPITR)|flag(9, m.SMRInvoked)|
		flag(11, m.XTR != nil)|flag(17, m.LocalXTR)|flag(18, m.DontReply))
	b = binary.BigEndian.AppendUint64(b, m.Nonce)
	if p := m.Source.Prefix; p.IsValid() && !p.IsSingleIP() {
		return nil, fmt.Errorf("source EID %s: it must be a host's", m.Source)
	}
	b, err := appendEID(b, m.Source, func(uint8) []byte { return nil })
	if err != nil {
		return nil, err
	}
	if b, err = appendAddresses(b, m.Locators...); err != nil {
		return nil, err
	}
	for _, a := range m.EIDs {
		b, err = appendEID(b, a.EID, func(bits uint8) []byte {
			if a.Notify {
				return []byte{1 << 7, bits}
			}
			return []byte{0, bits}
		})
		if err != nil {
			return nil, err
		}
	}
	return appendXTR(b, m.XTR), nil
}

func (m *MapRequest) read(r *reader) {
	w := r.uint32()
	m.Authoritative, m.Probe, m.Solicit, m.FromPITR, m.SMRInvoked = bit(w, 4), bit(w, 6), bit(w, 7), bit(w, 8), bit(w, 9)
	m.LocalXTR, m.DontReply = bit(w, 17), bit(w, 18)
	if bit(w, 5) {
		r.failf("mapping data: %w", ErrUnsupported)
	}
	m.Nonce = r.uint64()
	m.Source = r.eid(-1)
	for range int(w>>8&0x1f) + 1 {
		m.Locators = append(m.Locators, r.address())
	}
	if w&0xff == 0 {
		r.failf("no EIDs are asked for")
	}
	for i := 0; i < int(w&0xff) && r.err == nil; i++ {
		h := r.take(2)
		m.EIDs = append(m.EIDs, Asked{Notify: h[0]>>7 != 0, EID: r.eid(int(h[1]))})
	}
	if bit(w, 11) {
		m.XTR = r.xtr()
	}
}

func (m *MapReply) append(b []byte) ([]byte, error) {
	if err := count("records", len(m.Records), 0, 255); err != nil {
		return nil, err
	}
	b = binary.BigEndian.AppendUint32(b, typeMapReply<<28|uint32(len(m.Records))|flag(4, m.Probe)|flag(5, m.EchoNonce))
	return appendRecords(binary.BigEndian.AppendUint64(b, m.Nonce), m.Records)
}

func (m *MapReply) read(r *reader) {
	w := r.uint32()
	m.Probe, m.EchoNonce = bit(w, 4), bit(w, 5)
	if bit(w, 6) {
		r.failf("LISP-SEC: %w", ErrUnsupported)
	}
	m.Nonce = r.uint64()
	m.Records = r.records(int(w & 0xff))
}

func (m *MapRegister) append(b []byte) ([]byte, error) {
	if err := count("records", len(m.Records), 1, 255); err != nil {
		return nil, err
	}
	b = binary.BigEndian.AppendUint32(b, typeMapRegister<<28|uint32(len(m.Records))|
		flag(4, m.ProxyReply)|flag(6, m.XTR != nil)|flag(19, m.Dynamic)|flag(20, m.UseTTL)|flag(21, m.Merge)|flag(23, m.WantNotify))
	b, err := m.Auth.append(binary.BigEndian.AppendUint64(b, m.Nonce))
	if err != nil {
		return nil, err
	}
	if b, err = appendRecords(b, m.Records); err != nil {
		return nil, err
	}
	return appendXTR(b, m.XTR), nil
}

func (m *MapRegister) read(r *reader) {
	w := r.uint32()
	m.ProxyReply, m.Dynamic, m.UseTTL, m.Merge, m.WantNotify = bit(w, 4), bit(w, 19), bit(w, 20), bit(w, 21), bit(w, 23)
	if bit(w, 5) {
		r.failf("LISP-SEC: %w", ErrUnsupported)
	}
	m.Nonce = r.uint64()
	m.Auth = r.auth()
	if w&0xff == 0 {
		r.failf("it has no records")
	}
	m.Records = r.records(int(w & 0xff))
	if bit(w, 6) {
		m.XTR = r.xtr()
	}
}

func (m *MapNotify) append(b []byte) ([]byte, error) {
	if err := count("records", len(m.Records), 0, 255); err != nil {
		return nil, err
	}
	t := uint32(typeMapNotify)
	if m.Ack {
		t = typeMapNotifyAck
	}
	b = binary.BigEndian.AppendUint32(b, t<<28|uint32(len(m.Records)))
	b, err := m.Auth.append(binary.BigEndian.AppendUint64(b, m.Nonce))
	if err != nil {
		return nil, err
	}
	return appendRecords(b, m.Records)
}

func (m *MapNotify) read(r *reader) {
	w := r.uint32()
	m.Nonce = r.uint64()
	m.Auth = r.auth()
	m.Records = r.records(int(w & 0xff))
}

func appendXTR(b []byte, x *XTR) []byte {
	if x == nil {
		return b
	}
	return binary.BigEndian.AppendUint64(append(b, x.ID[:]...), x.Site)
}

func (r *reader) xtr() *XTR {
	return &XTR{ID: [16]byte(r.take(16)), Site: r.uint64()}
}
