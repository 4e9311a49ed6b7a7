package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/cilium/ebpf"
)

// FastSettings is what a fast path translates by, apart from its mappings.
type FastSettings struct {
	// Pref64 is the RFC 6052 prefix; invalid: no IPv4 translation.
	Pref64 netip.Prefix
	// Hops is taken off TTL and Hop Limit, beside what the kernel behind takes.
	// Packets that would not live through that are left to the full path.
	Hops uint8
	// ZeroTrafficClass writes 0 instead of copying TOS and traffic class.
	ZeroTrafficClass bool
	// MTU4 and MTU6, in bytes: what is longer after translation is left to the
	// full path. 0: not known.
	MTU4, MTU6 int
	// LowestIPv6MTU, in bytes: IPv4 packets without DF that are longer after
	// translation are left to the full path. 0: 1280.
	LowestIPv6MTU int
	// AllowPrivate: IPv4 addresses that have no meaning in the Internet (private,
	// shared, documentation ones ...) are translated from and to Pref64. Otherwise
	// they are left to the full path.
	AllowPrivate bool
	// Inside are destinations to which a mapped machine's 1:1 source stays. Single
	// addresses among them, also IPv4 ones, are the host's own: nothing to them is
	// translated. At most MaxInside prefixes and MaxOwn addresses.
	Inside []netip.Prefix
	// Direct sends what is translated to its next hop (bpf_redirect_neigh), past
	// netfilter, policy rules and other tc programs, by the routes that the kernel
	// gives for it (IPv6: of the main table, or of the device's VRF). What has no
	// route or neighbour, may not be forwarded, is too long for its way or goes to
	// the host itself or to Device is left to the kernel as without Direct.
	Direct bool
	// Device is the full path's, by its index.
	Device int
}

// Limits of FastSettings.Inside.
const (
	MaxInside = 32
	MaxOwn    = 256
)

// The same as struct settings of bpf/table.h.
type fastSettings struct {
	Flags, Hops, MTU4, MTU6, LowestMTU6, NInside uint32
	Full, _                                      uint32
	PrefHi, PrefLo, MaskHi, MaskLo               uint64
	Up, Down                                     uint32
	HighMask, LowMask                            uint64
	Inside                                       [MaxInside]struct{ Hi, Lo, MaskHi, MaskLo uint64 }
	OwnSeed                                      uint64
	Own                                          [ownSlots][2]uint64
}

const (
	ownSlots  = 2048
	ownProbes = 8

	hasPref64        = 1
	hasPrefixes      = 2
	hasSix           = 4
	zeroTrafficClass = 8
	allowPrivate     = 16
	hasSixPrefixes   = 32
	direct           = 64
)

// Configure replaces the settings: each packet sees the old or the new ones,
// and none the old ones once Configure has returned.
func (f *Fast) Configure(s FastSettings) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(); err != nil {
		return err
	}
	if err := f.configure(s); err != nil {
		return fmt.Errorf("configure fast path: %w", err)
	}
	return nil
}

func (f *Fast) configure(s FastSettings) error {
	v, err := s.compile()
	if err != nil {
		return err
	}
	var have kinds
	if have.prefixes, err = occupied(f.maps["prefix6"], f.maps["prefix4"]); err != nil {
		return err
	}
	have.six = f.tables.six.n > 0
	if have.sixPrefixes, err = occupied(f.maps["prefix66"]); err != nil {
		return err
	}
	f.kinds = have
	return f.putSettings(s, v)
}

// putSettings puts a new map in the place of the old one.
func (f *Fast) putSettings(s FastSettings, v *fastSettings) error {
	if f.kinds.prefixes {
		v.Flags |= hasPrefixes
	}
	if f.kinds.six || f.kinds.sixPrefixes {
		v.Flags |= hasSix
	}
	if f.kinds.sixPrefixes {
		v.Flags |= hasSixPrefixes
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "settings", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(binary.Size(v)), MaxEntries: 1})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Put(uint32(0), v); err != nil {
		return err
	}
	if err := f.maps["settings"].Put(uint32(0), uint32(m.FD())); err != nil {
		return err
	}
	f.settings = &s
	return nil
}

// kinds are the kinds of mappings, beside IPv4 <-> IPv6 ones of single addresses,
// that the program looks for. Looking for one that is not there costs time.
type kinds struct{ prefixes, six, sixPrefixes bool }

func (k *kinds) add(e FastEntry) {
	single := e.Outside.IsSingleIP() && e.Inside.IsSingleIP()
	switch {
	case e.Outside.Addr().Is4():
		k.prefixes = k.prefixes || !single
	case single:
		k.six = true
	default:
		k.sixPrefixes = true
	}
}

// announce tells the program of the kinds of mappings. Before Configure there is
// nothing to tell: the program passes everything.
func (f *Fast) announce(k kinds) error {
	if f.kinds == k {
		return nil
	}
	f.kinds = k
	if f.settings == nil {
		return nil
	}
	v, err := f.settings.compile()
	if err != nil {
		return err
	}
	return f.putSettings(*f.settings, v)
}

func occupied(maps ...*ebpf.Map) (bool, error) {
	for _, m := range maps {
		next := make([]byte, m.KeySize())
		err := m.NextKey(nil, &next)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, err
		}
	}
	return false, nil
}

func (s FastSettings) compile() (*fastSettings, error) {
	v := &fastSettings{Hops: uint32(s.Hops), MTU4: uint32(s.MTU4), MTU6: uint32(s.MTU6), LowestMTU6: uint32(max(s.LowestIPv6MTU, 1280)), Full: uint32(s.Device)}
	for _, m := range []struct {
		field string
		mtu   int
	}{{"mtu4", s.MTU4}, {"mtu6", s.MTU6}, {"lowest_ipv6_mtu", s.LowestIPv6MTU}} {
		if m.mtu < 0 || m.mtu > 65535 {
			return nil, fmt.Errorf("%s: %d is not 0 to 65535", m.field, m.mtu)
		}
	}
	if s.Direct {
		v.Flags |= direct
	}
	if s.ZeroTrafficClass {
		v.Flags |= zeroTrafficClass
	}
	if s.AllowPrivate {
		v.Flags |= allowPrivate
	}
	if s.Pref64.IsValid() {
		v.Flags |= hasPref64
		bits := s.Pref64.Bits()
		low := -1 // how many bits of the IPv4 address are in the second half
		switch bits {
		case 32, 40, 48, 56, 64:
			low = bits - 32
		case 96:
			low = 32
		}
		if low < 0 || !s.Pref64.Addr().Is6() || s.Pref64.Masked() != s.Pref64 {
			return nil, fmt.Errorf("pref64: %v is not an IPv6 prefix of length 32, 40, 48, 56, 64 or 96", s.Pref64)
		}
		v.PrefHi, v.PrefLo = halves(s.Pref64.Addr())
		v.MaskHi, v.MaskLo = masks(bits)
		v.Up = uint32(low)
		v.HighMask = 1<<(32-low) - 1
		v.LowMask = 1<<low - 1
		if bits < 96 {
			// Octet 8 stays free (RFC 6052 §2.2).
			v.Down = uint32(56 - low)
		}
	}
	var own []netip.Addr
	for _, p := range s.Inside {
		switch {
		case !p.IsValid() || p.Masked() != p || p.Addr().Is4() && !p.IsSingleIP():
			return nil, fmt.Errorf("inside: %v is neither an IPv6 prefix nor an address", p)
		case p.IsSingleIP():
			own = append(own, p.Addr())
		case v.NInside == MaxInside:
			return nil, fmt.Errorf("inside: more than %d prefixes", MaxInside)
		default:
			at := &v.Inside[v.NInside]
			at.Hi, at.Lo = halves(p.Addr())
			at.MaskHi, at.MaskLo = masks(p.Bits())
			v.NInside++
		}
	}
	if len(own) > MaxOwn {
		return nil, fmt.Errorf("inside: more than %d single addresses", MaxOwn)
	}
	// Another seed until no address is too far from its slot.
	for rng := rand.New(rand.NewPCG(1, 2)); !v.place(own); v.OwnSeed = rng.Uint64() {
	}
	return v, nil
}

func (v *fastSettings) place(own []netip.Addr) bool {
	v.Own = [ownSlots][2]uint64{}
next:
	for _, a := range own {
		w := words(a.As16())
		at := (w[0]*mix1 ^ w[1] ^ v.OwnSeed) * mix2 >> 53
		for i := range uint64(ownProbes) {
			slot := &v.Own[(at+i)%ownSlots]
			if *slot == w {
				continue next
			}
			if *slot == [2]uint64{} {
				*slot = w
				continue next
			}
		}
		return false
	}
	return true
}

// halves are an address's two halves, in host order.
func halves(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

func masks(bits int) (hi, lo uint64) {
	return ^uint64(0) << (64 - min(bits, 64)), ^uint64(0) << (128 - max(bits, 64))
}

// words are an address as the program loads it.
func words(a [16]byte) [2]uint64 {
	return [2]uint64{binary.NativeEndian.Uint64(a[:8]), binary.NativeEndian.Uint64(a[8:])}
}
