package seed

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf16"
)

// A minimal writer of ISO 9660 (ECMA-119): one directory, one extent a file. The long names are there twice, as Rock Ridge (IEEE
// P1282) and as Joliet, because a kernel may be built without either.

const sector = 2048

// The places of what every image has, in sectors.
const (
	atPrimary = 16 + iota // ECMA-119 §6.7.1: the first 16 are the system's
	atJoliet
	atTerminator
	atPathL
	atPathM
	atJolietPathL
	atJolietPathM
	atRoot
	atJolietRoot
	atContinuation // of the root's Rock Ridge fields
	atFiles
)

type isoFile struct {
	short string // ISO 9660 level 1, with its version; files are given in this order
	long  string
	data  []byte
}

// isoDate is 2026-01-01 00:00:00 UTC (ECMA-119 §9.1.5): seeds have no clock.
var isoDate = []byte{126, 1, 1, 0, 0, 0, 0}

func writeISO(label string, files []isoFile) []byte {
	size := atFiles
	for _, f := range files {
		size += sectors(len(f.data))
	}
	img := make([]byte, size*sector)
	at := func(n int) []byte { return img[n*sector : (n+1)*sector] }

	descriptor(at(atPrimary), 1, label, size, atPathL, atPathM, atRoot, false)
	descriptor(at(atJoliet), 2, label, size, atJolietPathL, atJolietPathM, atJolietRoot, true)
	copy(at(atTerminator), "\xffCD001\x01")
	for _, p := range []struct{ l, m, root int }{{atPathL, atPathM, atRoot}, {atJolietPathL, atJolietPathM, atJolietRoot}} {
		// ECMA-119 §9.4: length of name, attributes, extent, parent, name.
		l, m := at(p.l), at(p.m)
		l[0], m[0] = 1, 1
		binary.LittleEndian.PutUint32(l[2:], uint32(p.root))
		binary.BigEndian.PutUint32(m[2:], uint32(p.root))
		binary.LittleEndian.PutUint16(l[6:], 1)
		binary.BigEndian.PutUint16(m[6:], 1)
	}

	root, joliet := bytes.NewBuffer(at(atRoot)[:0]), bytes.NewBuffer(at(atJolietRoot)[:0])
	er := rockRidgeID()
	copy(at(atContinuation), er)
	dir := posix(0o040500, 2)
	sp := []byte{'S', 'P', 7, 1, 0xbe, 0xef, 0}
	ce := append([]byte{'C', 'E', 28, 1}, both32s(atContinuation, 0, uint32(len(er)))...)
	root.Write(record(atRoot, sector, 2, "\x00", bytes.Join([][]byte{sp, dir, ce}, nil)))
	root.Write(record(atRoot, sector, 2, "\x01", dir))
	joliet.Write(record(atJolietRoot, sector, 2, "\x00", nil))
	joliet.Write(record(atJolietRoot, sector, 2, "\x01", nil))
	next := atFiles
	for _, f := range files {
		nm := append([]byte{'N', 'M', byte(5 + len(f.long)), 1, 0}, f.long...)
		root.Write(record(next, len(f.data), 0, f.short, append(posix(0o100400, 1), nm...)))
		joliet.Write(record(next, len(f.data), 0, ucs2(f.long), nil))
		copy(img[next*sector:], f.data)
		next += sectors(len(f.data))
	}
	return img
}

func sectors(n int) int { return (n + sector - 1) / sector }

// descriptor fills a primary (ECMA-119 §8.4) or supplementary (§8.5) volume descriptor.
func descriptor(d []byte, kind byte, label string, size, pathL, pathM, root int, joliet bool) {
	text := func(from, to int, s string) {
		if joliet {
			for i := from; i+1 < to; i += 2 {
				d[i], d[i+1] = 0, ' '
			}
			s = ucs2(s)
		} else {
			copy(d[from:to], strings.Repeat(" ", to-from))
		}
		copy(d[from:to], s)
	}
	d[0] = kind
	copy(d[1:], "CD001\x01")
	text(8, 40, "LINUX")
	text(40, 72, label)
	copy(d[80:], both32(uint32(size)))
	if joliet {
		copy(d[88:], "%/E") // UCS-2 level 3
	}
	copy(d[120:], both16(1)) // volumes in the set
	copy(d[124:], both16(1)) // number of this one
	copy(d[128:], both16(sector))
	copy(d[132:], both32(10)) // a path table of one entry
	binary.LittleEndian.PutUint32(d[140:], uint32(pathL))
	binary.BigEndian.PutUint32(d[148:], uint32(pathM))
	copy(d[156:], record(root, sector, 2, "\x00", nil))
	text(190, 318, "")
	text(318, 446, "")
	text(446, 574, "")
	text(574, 702, "")
	text(702, 739, "")
	text(739, 776, "")
	text(776, 813, "")
	for i := 813; i < 881; i++ { // four dates: not given, but for the time zone's byte
		if (i-813)%17 != 16 {
			d[i] = '0'
		}
	}
	d[881] = 1
}

// record is a directory record (ECMA-119 §9.1); flags 2: a directory. use is the system use area (Rock Ridge).
func record(extent, size int, flags byte, name string, use []byte) []byte {
	n := 33 + len(name)
	n += n % 2
	r := make([]byte, n+len(use)+len(use)%2)
	r[0] = byte(len(r))
	copy(r[2:], both32(uint32(extent)))
	copy(r[10:], both32(uint32(size)))
	copy(r[18:], isoDate)
	r[25] = flags
	copy(r[28:], both16(1))
	r[32] = byte(len(name))
	copy(r[33:], name)
	copy(r[n:], use)
	return r
}

// posix is Rock Ridge's PX field: mode, links, and root as owner, because user-data hold secrets.
func posix(mode, links uint32) []byte {
	return append([]byte{'P', 'X', 36, 1}, both32s(mode, links, 0, 0)...)
}

// rockRidgeID is the ER field that announces Rock Ridge; too long for a directory record.
func rockRidgeID() []byte {
	id := "RRIP_1991A"
	des := "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS"
	src := "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION."
	b := []byte{'E', 'R', byte(8 + len(id) + len(des) + len(src)), 1, byte(len(id)), byte(len(des)), byte(len(src)), 1}
	return append(b, id+des+src...)
}

func both16(v uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, v), v)
}

func both32(v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, v), v)
}

func both32s(vs ...uint32) []byte {
	var b []byte
	for _, v := range vs {
		b = append(b, both32(v)...)
	}
	return b
}

// ucs2 is big-endian UCS-2, as Joliet has it.
func ucs2(s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.BigEndian.AppendUint16(b, u)
	}
	return string(b)
}
