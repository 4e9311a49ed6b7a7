package seed

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"widecloud/api"
)

// The limits of what a seed may hold.
const (
	MaxUserData = 1 << 20 // bytes
	MaxKeys     = 256
	MaxNICs     = 32
)

// Data is what a guest is told at its first boot.
type Data struct {
	UID      string   // of the VM: the instance-id, whose change makes cloud-init run anew
	Hostname string   // a DNS name (RFC 1123 §2.1)
	UserData string   // any bytes; empty: made from SSHKeys
	SSHKeys  []string // authorized_keys lines (sshd(8)), for the image's default user
	NICs     []NIC
}

// NIC is the configuration of one network card, found by its MAC address. The first is named eth0, and so on.
type NIC struct {
	MAC       string
	DHCP4     bool
	Addresses []netip.Prefix // static ones, beside what RA (and DHCP) give
	MTU       int            // bytes, 1280 (RFC 8200 §5) to 65535; 0: not set
}

// Files are the files of a seed.
type Files struct {
	UserData, MetaData, NetworkConfig []byte
}

var (
	uidSyntax   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)
	labelSyntax = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// Make checks the data and makes the files. The error is an *api.Error that names uid, hostname, spec.user_data, spec.ssh_keys[i] or
// nics[i].
func Make(d Data) (Files, error) {
	if err := d.check(); err != nil {
		return Files{}, err
	}
	var meta, nics bytes.Buffer
	fmt.Fprintf(&meta, "instance-id: %s\nlocal-hostname: %s\n", quote(d.UID), quote(d.Hostname))
	f := Files{UserData: []byte(d.UserData)}
	switch {
	case d.UserData != "":
		// The user's data stay as they are; cloud-init merges the keys in from here.
		list(&meta, "", "public-keys", d.SSHKeys)
	case len(d.SSHKeys) > 0:
		var user bytes.Buffer
		user.WriteString("#cloud-config\n")
		list(&user, "", "ssh_authorized_keys", d.SSHKeys)
		f.UserData = user.Bytes()
	default:
		f.UserData = []byte("#cloud-config\n{}\n")
	}
	nics.WriteString("version: 2\n")
	if len(d.NICs) == 0 {
		nics.WriteString("ethernets: {}\n")
	} else {
		nics.WriteString("ethernets:\n")
	}
	for i, n := range d.NICs {
		// set-name: not every renderer of cloud-init's can match by MAC address, but all give the name first.
		fmt.Fprintf(&nics, "  eth%d:\n    match:\n      macaddress: %s\n    set-name: \"eth%d\"\n", i, quote(strings.ToLower(n.MAC)), i)
		fmt.Fprintf(&nics, "    dhcp4: %t\n    dhcp6: false\n    accept-ra: true\n", n.DHCP4)
		addrs := make([]string, len(n.Addresses))
		for j, a := range n.Addresses {
			addrs[j] = a.String()
		}
		list(&nics, "    ", "addresses", addrs)
		if n.MTU != 0 {
			fmt.Fprintf(&nics, "    mtu: %d\n", n.MTU)
		}
	}
	f.MetaData, f.NetworkConfig = meta.Bytes(), nics.Bytes()
	return f, nil
}

// Image is Make's files as an ISO 9660 image.
func Image(d Data) ([]byte, error) {
	f, err := Make(d)
	if err != nil {
		return nil, err
	}
	return writeISO("cidata", []isoFile{
		{"META_DAT.;1", "meta-data", f.MetaData},
		{"NETWORK_.;1", "network-config", f.NetworkConfig},
		{"USER_DAT.;1", "user-data", f.UserData},
	}), nil
}

func (d Data) check() error {
	if !uidSyntax.MatchString(d.UID) {
		return api.Invalidf("uid", "%q is not 1 to 64 letters, digits and '-'", clip(d.UID))
	}
	if err := checkHostname(d.Hostname); err != nil {
		return err
	}
	if len(d.UserData) > MaxUserData {
		return api.Invalidf("spec.user_data", "%d bytes are more than %d", len(d.UserData), MaxUserData)
	}
	if len(d.SSHKeys) > MaxKeys {
		return api.Invalidf("spec.ssh_keys", "%d keys are more than %d", len(d.SSHKeys), MaxKeys)
	}
	for i, k := range d.SSHKeys {
		if why := keyFault(k); why != "" {
			return api.Invalidf(fmt.Sprintf("spec.ssh_keys[%d]", i), "%s", why)
		}
	}
	if len(d.NICs) > MaxNICs {
		return api.Invalidf("nics", "%d cards are more than %d", len(d.NICs), MaxNICs)
	}
	seen := map[string]bool{}
	for i, n := range d.NICs {
		field := fmt.Sprintf("nics[%d].", i)
		hw, err := net.ParseMAC(n.MAC)
		if err != nil || len(hw) != 6 || !strings.EqualFold(hw.String(), n.MAC) {
			return api.Invalidf(field+"mac", "%q is not a MAC address like 52:54:00:12:34:56", clip(n.MAC))
		}
		if seen[hw.String()] {
			return api.Invalidf(field+"mac", "%s is another card's already", n.MAC)
		}
		seen[hw.String()] = true
		for j, a := range n.Addresses {
			if !a.IsValid() || a.Addr().Zone() != "" {
				return api.Invalidf(fmt.Sprintf("%saddresses[%d]", field, j), "%s is not an address with its prefix length", a)
			}
		}
		if n.MTU != 0 && (n.MTU < 1280 || n.MTU > 65535) {
			return api.Invalidf(field+"mtu", "%d is not 1280 to 65535", n.MTU)
		}
	}
	return nil
}

func checkHostname(name string) error {
	ok := len(name) > 0 && len(name) <= 253
	for _, label := range strings.Split(name, ".") {
		ok = ok && labelSyntax.MatchString(label)
	}
	if !ok {
		return api.Invalidf("hostname", "%q is not a DNS name of lower-case letters, digits and '-'", clip(name))
	}
	return nil
}

// keyFault says what is wrong with an authorized_keys line: options (optional), type, base64 whose first string is the type
// (RFC 4253 §6.6), comment. It does not judge the key itself: sshd will.
func keyFault(line string) string {
	if len(line) > 16<<10 {
		return "longer than 16 KiB"
	}
	if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) || r == 0x2028 || r == 0x2029 }) {
		return "not one line of text"
	}
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return "empty"
	}
	if strings.HasPrefix(fields[0], "#") {
		return "a comment, not a key"
	}
	for i := 1; i < len(fields); i++ {
		blob, err := base64.StdEncoding.DecodeString(fields[i])
		if err != nil || len(blob) < 4 {
			continue
		}
		n := binary.BigEndian.Uint32(blob)
		if uint64(n) <= uint64(len(blob)-4) && n > 0 && string(blob[4:4+n]) == fields[i-1] {
			return ""
		}
	}
	return "not an authorized_keys line (like ssh-ed25519 AAAA... name)"
}

// list writes a YAML sequence of quoted scalars under a key; nothing when it is empty.
func list(b *bytes.Buffer, indent, key string, items []string) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintf(b, "%s%s:\n", indent, key)
	for _, s := range items {
		fmt.Fprintf(b, "%s  - %s\n", indent, quote(s))
	}
}

// quote makes a YAML double-quoted scalar (YAML 1.2 §7.3.1, the same in 1.1, which cloud-init reads): every character that is
// not printable ASCII is escaped.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r >= 0x20 && r < 0x7f:
			b.WriteRune(r)
		case r <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
