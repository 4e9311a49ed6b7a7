package lisp_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"hash"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/packet/lisp"
)

func eid(instance uint32, prefix string) lisp.EID {
	return lisp.EID{Instance: instance, Prefix: netip.MustParsePrefix(prefix)}
}

func ip(s string) lisp.Address { return lisp.IP(netip.MustParseAddr(s)) }

var comparers = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b lisp.IP) bool { return a == b }),
}

var key = []byte("a key that both ends have")

func keyring(a lisp.Auth) []byte {
	if a.Key != 7 {
		return nil
	}
	return key
}

var (
	locators = []lisp.Locator{
		{Address: ip("192.0.2.1"), Priority: 1, Weight: 100, MulticastPriority: 255, Local: true, Reachable: true},
		{Address: ip("2001:db8::1"), Priority: lisp.Unusable, Weight: 3, MulticastWeight: 4, Probed: true},
	}
	records = []lisp.Record{
		{EID: eid(0, "2001:db8:1::7/128"), TTL: 24 * time.Hour, Authoritative: true, Version: 0xabc, Locators: locators},
		{EID: eid(0, "198.51.100.0/24"), TTL: lisp.Forever, Action: lisp.NativelyForward},
		{EID: eid(0xfedcba, "10.0.0.1/32"), TTL: time.Minute, Locators: locators[:1]},
	}
	xtr = &lisp.XTR{ID: [16]byte{1, 2, 3, 15: 16}, Site: 0x1122334455667788}
)

// messages are one of each kind, with what tshark must say of it: fields and values, several with commas between.
var messages = []struct {
	name    string
	message lisp.Message
	tshark  map[string]string
}{
	{"a request", &lisp.MapRequest{
		Nonce: 0x0102030405060708, Locators: []lisp.Address{ip("192.0.2.9"), ip("2001:db8::9")}, Source: eid(0, "198.51.100.7/32"),
		EIDs: []lisp.Asked{{EID: eid(0, "2001:db8:1::/48")}, {EID: eid(0, "203.0.113.0/24")}},
	}, map[string]string{
		"lisp.type": "1", "lisp.nonce": "0x0102030405060708", "lisp.records": "2", "lisp.irc": "1", "lisp.mreq.flags.smr": "0", "lisp.mreq.flags.probe": "0",
		"lisp.mreq.srceid.ipv4": "198.51.100.7", "lisp.mreq.itr_rloc_ipv4": "192.0.2.9", "lisp.mreq.itr_rloc_ipv6": "2001:db8::9",
		"lisp.mreq.record.prefix.ipv6": "2001:db8:1::", "lisp.mreq.record.prefix.ipv4": "203.0.113.0", "lisp.mreq.record.prefix.length": "48,24",
	}},
	{"a solicitation", &lisp.MapRequest{Nonce: 1, Solicit: true, Locators: []lisp.Address{ip("192.0.2.9")}, EIDs: []lisp.Asked{{EID: eid(0, "203.0.113.4/32")}}},
		map[string]string{"lisp.type": "1", "lisp.mreq.flags.smr": "1", "lisp.mreq.flags.smri": "0", "lisp.mreq.srceid.afi": "0"}},
	{"a probe", &lisp.MapRequest{Nonce: 2, Probe: true, Authoritative: true, FromPITR: true, SMRInvoked: true, LocalXTR: true, DontReply: true,
		Locators: []lisp.Address{ip("192.0.2.9")}, EIDs: []lisp.Asked{{EID: eid(0, "203.0.113.4/32")}}},
		map[string]string{"lisp.mreq.flags.probe": "1", "lisp.mreq.flags.auth": "1", "lisp.mreq.flags.pitr": "1", "lisp.mreq.flags.smri": "1"}},
	{"a subscription", &lisp.MapRequest{Nonce: 3, XTR: xtr, Locators: []lisp.Address{ip("192.0.2.9")}, EIDs: []lisp.Asked{{EID: eid(5, "203.0.113.4/32"), Notify: true}}},
		map[string]string{"lisp.lcaf.iid": "5", "lisp.lcaf.iid.ipv4": "203.0.113.4"}}, // tshark 4.0 does not know RFC 9437
	{"a reply", &lisp.MapReply{Nonce: 4, EchoNonce: true, Records: records}, map[string]string{
		"lisp.type": "2", "lisp.records": "3", "lisp.mrep.flags.probe": "0", "lisp.mrep.flags.enlr": "1",
		"lisp.mapping.ttl": "1440,4294967295,1", "lisp.mapping.loccnt": "2,0,1", "lisp.mapping.eid.masklen": "128,24,32", "lisp.mapping.act": "0,1,0",
		"lisp.mapping.auth": "1,0,0", "lisp.mapping.ver": "2748,0,0", "lisp.mapping.eid.ipv6": "2001:db8:1::7", "lisp.mapping.eid.ipv4": "198.51.100.0",
		"lisp.lcaf.iid": "16702650", "lisp.lcaf.iid.ipv4": "10.0.0.1",
		"lisp.loc.priority": "1,255,1", "lisp.loc.weight": "100,3,100", "lisp.loc.multicast_priority": "255,0,255", "lisp.loc.multicast_weight": "0,4,0",
		"lisp.loc.flags.local": "1,0,1", "lisp.loc.flags.probe": "0,1,0", "lisp.loc.flags.reach": "1,0,1", "lisp.loc.locator": "192.0.2.1,2001:db8::1,192.0.2.1",
	}},
	{"a negative reply", &lisp.MapReply{Nonce: 5, Probe: true, Records: []lisp.Record{{EID: eid(0, "0.0.0.0/1"), TTL: 15 * time.Minute, Action: lisp.DropPolicyDenied}}},
		map[string]string{"lisp.mrep.flags.probe": "1", "lisp.mapping.act": "4", "lisp.mapping.loccnt": "0"}},
	{"a registration", &lisp.MapRegister{Nonce: 6, ProxyReply: true, WantNotify: true, XTR: xtr, Auth: lisp.Auth{Key: 7, Algorithm: lisp.HMACSHA1}, Records: records},
		map[string]string{
			"lisp.type": "3", "lisp.records": "3", "lisp.mreg.flags.pmr": "1", "lisp.mreg.flags.sec": "0", "lisp.mreg.flags.xtrid": "1", "lisp.mreg.flags.rtr": "0", "lisp.mreg.flags.wmn": "1",
			"lisp.authlen": "20", "lisp.xtrid": "01020300000000000000000000000010", "lisp.siteid": "1122334455667788", "lisp.mapping.eid.ipv6": "2001:db8:1::7",
		}},
	{"a registration, otherwise", &lisp.MapRegister{Nonce: 7, Dynamic: true, UseTTL: true, Merge: true, Auth: lisp.Auth{Key: 7, Algorithm: lisp.HMACSHA256}, Records: records[:1]},
		map[string]string{"lisp.type": "3", "lisp.mreg.flags.pmr": "0", "lisp.mreg.flags.xtrid": "0", "lisp.authlen": "32"}},
	{"a notice", &lisp.MapNotify{Nonce: 8, Auth: lisp.Auth{Key: 7, Algorithm: lisp.HMACSHA256}, Records: records[:2]},
		map[string]string{"lisp.type": "4", "lisp.records": "2", "lisp.authlen": "32", "lisp.mapping.eid.ipv4": "198.51.100.0"}},
	{"the answer to it", &lisp.MapNotify{Ack: true, Nonce: 8, Auth: lisp.Auth{Key: 7, Algorithm: lisp.HMACSHA1}},
		map[string]string{"lisp.type": "5"}}, // tshark 4.0 knows no more of it
	{"a request by the mapping system", &lisp.Encapsulated{
		From: netip.MustParseAddrPort("198.51.100.7:4342"), To: netip.MustParseAddrPort("203.0.113.4:4342"),
		Message: &lisp.MapRequest{Nonce: 9, Locators: []lisp.Address{ip("192.0.2.9")}, EIDs: []lisp.Asked{{EID: eid(0, "203.0.113.4/32")}}},
	}, map[string]string{"lisp.type": "8,1", "lisp.ecm.flags.sec": "0", "lisp.ecm.flags.ddt": "0", "ip.dst": "127.0.0.2,203.0.113.4", "udp.checksum.status": "3,1", "ip.checksum.status": "0,1", "lisp.nonce": "0x0000000000000009"}},
	{"the same over IPv6", &lisp.Encapsulated{
		DDT: true, From: netip.MustParseAddrPort("[2001:db8:1::7]:4342"), To: netip.MustParseAddrPort("[2001:db8:2::7]:4342"),
		Message: &lisp.MapReply{Nonce: 10, Records: records[:1]},
	}, map[string]string{"lisp.type": "8,2", "lisp.ecm.flags.ddt": "1", "ipv6.dst": "2001:db8:2::7", "udp.checksum.status": "3,1"}},
	{"locators of other kinds", &lisp.MapReply{Records: []lisp.Record{{EID: eid(0, "203.0.113.4/32"), Locators: []lisp.Locator{
		{Address: lisp.List{ip("192.0.2.1"), ip("2001:db8::1"), lisp.MAC{2, 0, 0, 0, 0, 1}}},
		{Address: lisp.NAT{MapServerPort: 4342, ETRPort: 61000, GlobalETR: ip("192.0.2.3"), MapServer: ip("192.0.2.4"), PrivateETR: ip("10.0.0.3"), Relayed: ip("192.0.2.5")}},
		{Address: lisp.Unknown{Type: 3, Bytes: "\x00\x00\x00\x2a\x00\x01\xc0\x00\x02\x07"}}, // AS number 42
		{Address: nil},
	}}}}, map[string]string{
		"lisp.mapping.loccnt": "4", "lisp.lcaf.type": "1,7,3", "lisp.lcaf.afi_list.ipv4": "192.0.2.1", "lisp.lcaf.afi_list.ipv6": "2001:db8::1", "lisp.lcaf.afi_list.mac": "02:00:00:00:00:01",
		"lisp.lcaf.asn": "42", "lisp.lcaf.asn.ipv4": "192.0.2.7",
	}},
}

// bytesOf is a message as it goes out: signed, if it can be.
func bytesOf(t testing.TB, m lisp.Message) []byte {
	t.Helper()
	out, err := lisp.Sign(nil, m, key)
	if err != nil {
		if out, err = lisp.Append(nil, m); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestReadsWhatItWrites(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			b := bytesOf(t, m.message)
			got, err := lisp.Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m.message, got, comparers); diff != "" {
				t.Error(diff)
			}
			for n := range b {
				if _, err := lisp.Decode(b[:n]); err == nil {
					t.Errorf("its first %d bytes of %d are taken for a whole message", n, len(b))
				}
			}
			if _, err := lisp.Decode(append(b, 0)); err == nil {
				t.Error("a byte after it is not noticed")
			}
		})
	}
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	before := []byte("before")
	out, err := lisp.Append(before, messages[0].message)
	if err != nil || !strings.HasPrefix(string(out), "before") {
		t.Fatal(out, err)
	}
	out, err = lisp.Append(before, &lisp.MapReply{Records: make([]lisp.Record, 256)})
	if err == nil || string(out) != "before" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestAuthentication(t *testing.T) {
	for _, a := range []lisp.Algorithm{lisp.HMACSHA1, lisp.HMACSHA256} {
		b, err := lisp.Sign(nil, &lisp.MapRegister{Nonce: 1, XTR: xtr, Auth: lisp.Auth{Key: 7, Algorithm: a}, Records: records}, key)
		if err != nil {
			t.Fatal(err)
		}
		if err := lisp.Verify(b, keyring); err != nil {
			t.Error(err)
		}
		if err := lisp.Verify(b, func(lisp.Auth) []byte { return []byte("another") }); !errors.Is(err, lisp.ErrAuth) {
			t.Errorf("another key: %v", err)
		}
		for i := range b { // each bit counts
			b[i] ^= 0x10
			if err := lisp.Verify(b, keyring); !errors.Is(err, lisp.ErrAuth) {
				t.Errorf("algorithm %d, byte %d changed: %v", a, i, err)
			}
			b[i] ^= 0x10
		}
	}
	none, err := lisp.Append(nil, &lisp.MapRegister{Records: records})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"no authentication data": none, "no bytes": nil, "a request": bytesOf(t, messages[0].message), "its beginning": none[:14]} {
		if err := lisp.Verify(b, keyring); !errors.Is(err, lisp.ErrAuth) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTruncated: data of the lengths that the algorithms' names speak of is taken, too, and must be as right.
func TestTruncated(t *testing.T) {
	for _, c := range []struct {
		algorithm lisp.Algorithm
		hash      func() hash.Hash
		cut       int
	}{{lisp.HMACSHA1, sha1.New, 12}, {lisp.HMACSHA256, sha256.New, 16}} {
		// A Map-Notify without records: type, nonce, key ID, algorithm, length, and the data.
		m := append([]byte{0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7, byte(c.algorithm), 0, byte(c.cut)}, make([]byte, c.cut)...)
		h := hmac.New(c.hash, key)
		h.Write(m)
		copy(m[16:], h.Sum(nil))
		if err := lisp.Verify(m, keyring); err != nil {
			t.Errorf("algorithm %d: %v", c.algorithm, err)
		}
		want := &lisp.MapNotify{Nonce: 1, Auth: lisp.Auth{Key: 7, Algorithm: c.algorithm}}
		if got, err := lisp.Decode(m); err != nil || !cmp.Equal(want, got, comparers) {
			t.Errorf("algorithm %d: %+v, %v", c.algorithm, got, err)
		}
		m[len(m)-1] ^= 1
		if err := lisp.Verify(m, keyring); !errors.Is(err, lisp.ErrAuth) {
			t.Errorf("algorithm %d, its last bit: %v", c.algorithm, err)
		}
		m[15]--
		if _, err := lisp.Decode(m[:len(m)-1]); err == nil {
			t.Errorf("algorithm %d: %d bytes are taken", c.algorithm, c.cut-1)
		}
	}
}

func TestRefusesToWrite(t *testing.T) {
	asked := []lisp.Asked{{EID: eid(0, "203.0.113.4/32")}}
	one := []lisp.Address{ip("192.0.2.9")}
	record := func(change func(*lisp.Record)) lisp.Message {
		c := records[0]
		change(&c)
		return &lisp.MapReply{Records: []lisp.Record{c}}
	}
	for name, m := range map[string]lisp.Message{
		"no locator of the ITR":   &lisp.MapRequest{EIDs: asked},
		"33 of them":              &lisp.MapRequest{EIDs: asked, Locators: make([]lisp.Address, 33)},
		"no EID":                  &lisp.MapRequest{Locators: one},
		"a prefix as source":      &lisp.MapRequest{EIDs: asked, Locators: one, Source: eid(0, "198.51.100.0/24")},
		"bits beyond the prefix":  record(func(c *lisp.Record) { c.EID = eid(0, "198.51.100.1/24") }),
		"an instance of 25 bits":  record(func(c *lisp.Record) { c.EID.Instance = 1 << 24 }),
		"half a minute":           record(func(c *lisp.Record) { c.TTL = 30 * time.Second }),
		"a TTL before now":        record(func(c *lisp.Record) { c.TTL = -time.Minute }),
		"an action of 4 bits":     record(func(c *lisp.Record) { c.Action = 8 }),
		"a version of 13 bits":    record(func(c *lisp.Record) { c.Version = 1 << 12 }),
		"256 locators":            record(func(c *lisp.Record) { c.Locators = make([]lisp.Locator, 256) }),
		"a locator with a zone":   record(func(c *lisp.Record) { c.Locators = []lisp.Locator{{Address: ip("fe80::1%eth0")}} }),
		"IPv4 in IPv6":            record(func(c *lisp.Record) { c.Locators = []lisp.Locator{{Address: ip("::ffff:192.0.2.1")}} }),
		"a known type as unknown": record(func(c *lisp.Record) { c.Locators = []lisp.Locator{{Address: lisp.Unknown{Type: 1}}} }),
		"an LCAF that is too long": record(func(c *lisp.Record) {
			c.Locators = []lisp.Locator{{Address: lisp.Unknown{Type: 3, Bytes: strings.Repeat("x", 1<<16)}}}
		}),
		"an unknown algorithm": &lisp.MapRegister{Auth: lisp.Auth{Key: 1, Algorithm: 9}, Records: records},
		"nothing to register":  &lisp.MapRegister{},
		"an ECM in an ECM":     &lisp.Encapsulated{From: netip.MustParseAddrPort("192.0.2.1:1"), To: netip.MustParseAddrPort("192.0.2.2:1"), Message: &lisp.Encapsulated{}},
		"of two families":      &lisp.Encapsulated{From: netip.MustParseAddrPort("192.0.2.1:1"), To: netip.MustParseAddrPort("[2001:db8::1]:1"), Message: messages[0].message},
	} {
		if out, err := lisp.Append(nil, m); err == nil {
			t.Errorf("%s: % x", name, out)
		}
	}
	if _, err := lisp.Sign(nil, messages[0].message, key); err == nil {
		t.Error("a request is signed")
	}
	if _, err := lisp.Sign(nil, &lisp.MapNotify{}, key); err == nil {
		t.Error("a notice is signed by no algorithm")
	}
}

func TestRefusesToRead(t *testing.T) {
	list := "\x40\x03\x00\x00\x01\x00"
	nested := "\x40\x03\x00\x00\x01\x00\x00\x00"
	for range 6 { // a list in a list in a list …
		nested = list + string([]byte{0, byte(len(nested))}) + nested
	}
	const reply = "\x20\x00\x00\x01" + "\x00\x00\x00\x00\x00\x00\x00\x00"
	host := "\x00\x00\x00\x01" + "\x01\x20\x00\x00" + "\x00\x00\x00\x01\xcb\x00\x71\x04" // TTL, a locator, 203.0.113.4/32
	loc := "\x01\x01\x00\x00\x00\x01"
	for name, c := range map[string]struct{ in, want string }{
		"nothing":                     {"", "empty"},
		"type 0":                      {"\x00\x00\x00\x00", "type 0"},
		"a referral":                  {"\x60\x00\x00\x00", "Map-Referral"},
		"an Info-Request":             {"\x70\x00\x00\x00", "Info"},
		"mapping data":                {"\x14\x00\x00\x01" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00" + "\x00\x01\xc0\x00\x02\x01" + "\x00\x20\x00\x01\xcb\x00\x71\x04", "mapping data"},
		"no EID":                      {"\x10\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00" + "\x00\x01\xc0\x00\x02\x01", "no EIDs"},
		"no records":                  {"\x30\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00", "no records"},
		"LISP-SEC":                    {"\x22\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00", "LISP-SEC"},
		"a mask of 33 bits":           {reply + "\x00\x00\x00\x01" + "\x00\x21\x00\x00" + "\x00\x00\x00\x01\xcb\x00\x71\x04", "not a prefix"},
		"bits beyond the mask":        {reply + "\x00\x00\x00\x01" + "\x00\x18\x00\x00" + "\x00\x00\x00\x01\xcb\x00\x71\x04", "beyond"},
		"an EID by name":              {reply + "\x00\x00\x00\x01" + "\x00\x20\x00\x00" + "\x00\x00\x00\x11ab\x00", "family 17"},
		"an EID that is a list":       {reply + "\x00\x00\x00\x01" + "\x00\x20\x00\x00" + "\x00\x00\x40\x03\x00\x00\x01\x00\x00\x00", "LCAF type 1"},
		"a range of instances":        {reply + "\x00\x00\x00\x01" + "\x00\x20\x00\x00" + "\x00\x00\x40\x03\x00\x00\x02\x10\x00\x0a\x00\x00\x00\x05\x00\x01\xcb\x00\x71\x04", "range of instances"},
		"an instance of 32 bits":      {reply + "\x00\x00\x00\x01" + "\x00\x20\x00\x00" + "\x00\x00\x40\x03\x00\x00\x02\x00\x00\x0a\x01\x00\x00\x05\x00\x01\xcb\x00\x71\x04", "24 bits"},
		"an instance of nothing":      {reply + "\x00\x00\x00\x01" + "\x00\x00\x00\x00" + "\x00\x00\x40\x03\x00\x00\x02\x00\x00\x06\x00\x00\x00\x05\x00\x00", "no address"},
		"an LCAF that is too long":    {reply + host + loc + "\x40\x03\x00\x00\x03\x00\x00\x09", "early"},
		"an LCAF of unread bytes":     {reply + host + loc + "\x40\x03\x00\x00\x01\x00\x00\x03\x00\x00\x00", "early"},
		"LCAFs in one another":        {reply + host + loc + nested, "in one another"},
		"an instance as locator":      {reply + host + loc + "\x40\x03\x00\x00\x02\x00\x00\x0a\x00\x00\x00\x05\x00\x01\xcb\x00\x71\x04", "outside of an EID"},
		"an ECM of nothing":           {"\x80\x00\x00\x00", "no IP header"},
		"an ECM with security":        {"\x88\x00\x00\x00", "LISP-SEC"},
		"authentication, no 11 bytes": {"\x40\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x07\x01\x00\x0b" + strings.Repeat("\x00", 11), "11 bytes"},
		"an unknown algorithm":        {"\x40\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x07\x09\x00\x00", "algorithm 9"},
	} {
		m, err := lisp.Decode([]byte(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want an error with %q", name, m, err, c.want)
		}
	}
}

// TestHostileECM: an inner packet that is not what it says is refused.
func TestHostileECM(t *testing.T) {
	good := bytesOf(t, &lisp.Encapsulated{From: netip.MustParseAddrPort("192.0.2.1:4342"), To: netip.MustParseAddrPort("192.0.2.2:4342"), Message: messages[0].message})
	for i := 4; i < len(good); i++ {
		for _, flip := range []byte{0x01, 0x80} {
			bad := append([]byte(nil), good...)
			bad[i] ^= flip
			if m, err := lisp.Decode(bad); err == nil {
				t.Errorf("byte %d changed by %#x is not noticed: %+v", i, flip, m)
			}
		}
	}
}

func TestHeader(t *testing.T) {
	for name, c := range map[string]struct {
		h    lisp.Header
		want string
	}{
		"plain":                  {lisp.Header{}, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		"a nonce":                {lisp.Header{HasNonce: true, Nonce: 0xabcdef}, "\x80\xab\xcd\xef\x00\x00\x00\x00"},
		"an echo, status":        {lisp.Header{HasNonce: true, Nonce: 1, EchoNonce: true, HasStatus: true, Status: 0x80000001}, "\xe0\x00\x00\x01\x80\x00\x00\x01"},
		"versions":               {lisp.Header{HasVersions: true, SourceVersion: 0xabc, DestVersion: 0xdef}, "\x10\xab\xcd\xef\x00\x00\x00\x00"},
		"an instance":            {lisp.Header{HasInstance: true, Instance: 0xfedcba}, "\x08\x00\x00\x00\xfe\xdc\xba\x00"},
		"an instance and status": {lisp.Header{HasInstance: true, Instance: 7, HasStatus: true, Status: 3}, "\x48\x00\x00\x00\x00\x00\x07\x03"},
	} {
		b := make([]byte, lisp.HeaderSize)
		if err := c.h.Put(b); err != nil || string(b) != c.want {
			t.Errorf("%s: % x, %v; want % x", name, b, err, c.want)
		}
		if got, err := lisp.DecodeHeader(b); err != nil || got != c.h {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, h := range map[string]lisp.Header{
		"nonce and versions":            {HasNonce: true, HasVersions: true},
		"an echo of no nonce":           {EchoNonce: true},
		"a nonce of 25 bits":            {HasNonce: true, Nonce: 1 << 24},
		"an instance of 25 bits":        {HasInstance: true, Instance: 1 << 24},
		"a version of 13 bits":          {HasVersions: true, DestVersion: 1 << 12},
		"nine locators and an instance": {HasInstance: true, HasStatus: true, Status: 1 << 8},
	} {
		if err := h.Put(make([]byte, lisp.HeaderSize)); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	for name, b := range map[string]string{"short": "\x00", "keys": "\x01\x00\x00\x00\x00\x00\x00\x00", "reserved": "\x04\x00\x00\x00\x00\x00\x00\x00", "nonce and versions": "\x90\x00\x00\x00\x00\x00\x00\x00"} {
		if h, err := lisp.DecodeHeader([]byte(b)); err == nil {
			t.Errorf("%s: %+v", name, h)
		}
	}
	if h, err := lisp.DecodeHeader([]byte("\x20\x00\x00\x01\x00\x00\x00\x00")); err != nil || h != (lisp.Header{}) {
		t.Errorf("an echo of no nonce is ignored: %+v, %v", h, err)
	}
}
