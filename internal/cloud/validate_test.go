package cloud_test

import (
	"encoding/base64"
	"errors"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/cloud"
)

var ed25519 = "ssh-ed25519 " + base64.StdEncoding.EncodeToString(
	[]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"+strings.Repeat("k", 32)))

var digest = "sha256:" + strings.Repeat("0a", 32)

// check runs Default and Validate, and compares "CODE FIELD: part of the message"; "" is a valid object.
func check(t *testing.T, name string, o api.Object, k cloud.Known, want string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		cloud.Default(o)
		got := cloud.Validate(o, k)
		if want == "" {
			if got != nil {
				t.Fatalf("refused: %v", got)
			}
			return
		}
		var e *api.Error
		if !errors.As(got, &e) {
			t.Fatalf("error is %v, want %s", got, want)
		}
		where, message, _ := strings.Cut(want, ": ")
		if string(e.Code)+" "+e.Field != where || !strings.Contains(e.Message, message) {
			t.Errorf("error is %s %s: %s\nwant %s", e.Code, e.Field, e.Message, want)
		}
		if !utf8.ValidString(e.Message) || len(e.Error()) > 1000 {
			t.Errorf("message is not fit for people: %d bytes", len(e.Error()))
		}
	})
}

func TestValidateMeta(t *testing.T) {
	for name, want := range map[string]string{
		"web1": "", "a": "", "0": "", "a-b": "", strings.Repeat("a", 40): "",
		"":                      "invalid name: is missing",
		strings.Repeat("a", 41): "invalid name: 41 characters",
		"Web1":                  "invalid name: DNS label", "-a": "invalid name: DNS label", "a-": "invalid name: DNS label",
		"a.b": "invalid name: DNS label", "a/b": "invalid name: DNS label", "..": "invalid name: DNS label", "a b": "invalid name: DNS label",
		"a\n": "invalid name: DNS label", "é": "invalid name: DNS label", "a\x00": "invalid name: DNS label",
	} {
		check(t, "name "+name, &api.Owner{Meta: api.Meta{Name: name}}, cloud.Known{}, want)
	}
	check(t, "owner", &api.User{Meta: api.Meta{Name: "a", Owner: "A"}}, cloud.Known{}, "invalid owner: DNS label")
	check(t, "home", &api.User{Meta: api.Meta{Name: "a", Home: "../a"}}, cloud.Known{}, "invalid home: DNS label")
	check(t, "quota", &api.Owner{Meta: api.Meta{Name: "a"}, Spec: api.OwnerSpec{Quota: &api.Quota{DiskGiB: new(-1)}}}, cloud.Known{},
		"invalid spec.quota.disk_gib: negative")
	labelled := func(labels map[string]string) *api.User { return &api.User{Meta: api.Meta{Name: "a", Labels: labels}} }
	many := map[string]string{}
	for i := range api.MaxLabels {
		many[strconv.Itoa(i)] = "x"
	}
	check(t, "labels", labelled(many), cloud.Known{}, "")
	many["one-more"] = ""
	check(t, "many labels", labelled(many), cloud.Known{}, "invalid labels: has 33 labels, at most 32")
	check(t, "label's key", labelled(map[string]string{"a b": ""}), cloud.Known{}, `invalid labels: the label's key "a b"`)
	check(t, "label's value", labelled(map[string]string{"b": "x", "a": ","}), cloud.Known{}, `invalid labels: the value "," of the label a`)
	check(t, "title", &api.Owner{Meta: api.Meta{Name: "a"}, Spec: api.OwnerSpec{Title: "a\x1b[2J"}}, cloud.Known{}, "invalid spec.title: control")
}

func TestValidateVM(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*api.VMSpec)
		want   string
	}{
		{"plain", func(*api.VMSpec) {}, ""},
		{"all", func(s *api.VMSpec) {
			*s = api.VMSpec{Hardware: api.Hardware{CPUs: 64, MemoryMiB: 1 << 20, CPUModel: "Skylake-Client-noTSX-IBRS"}, DiskGiB: 65536, Image: "i", Network: "n", Power: "off-hard", Sites: []string{"tokyo", "osaka"},
				UserData: "#cloud-config\n", SSHKeys: []string{ed25519, ed25519 + " me@home"}, Place: "osaka/h1"}
		}, ""},
		{"no cpu", func(s *api.VMSpec) { s.CPUs = 0 }, "invalid spec.cpus: 0 is not between 1 and 64"},
		{"many cpus", func(s *api.VMSpec) { s.CPUs = 65 }, "invalid spec.cpus: 65 is not between 1 and 64"},
		{"little memory", func(s *api.VMSpec) { s.MemoryMiB = 63 }, "invalid spec.memory_mib: 63 is not between 64 and 1048576"},
		{"much memory", func(s *api.VMSpec) { s.MemoryMiB = math.MaxInt }, "invalid spec.memory_mib: "},
		{"negative disk", func(s *api.VMSpec) { s.DiskGiB = -1 }, "invalid spec.disk_gib: "},
		{"no image", func(s *api.VMSpec) { s.Image = "" }, "invalid spec.image: is missing"},
		{"no network", func(s *api.VMSpec) { s.Network = "" }, "invalid spec.network: is missing"},
		{"power", func(s *api.VMSpec) { s.Power = "ON" }, `invalid spec.power: "ON"`},
		{"site", func(s *api.VMSpec) { s.Sites = []string{"tokyo", "Osaka"} }, "invalid spec.sites[1]: DNS label"},
		{"site twice", func(s *api.VMSpec) { s.Sites = []string{"tokyo", "tokyo"} }, "invalid spec.sites[1]: tokyo is named twice"},
		{"any site", func(s *api.VMSpec) { s.Sites = []string{"*"} }, "invalid spec.sites[0]: DNS label"},
		{"user data", func(s *api.VMSpec) { s.UserData = strings.Repeat("x", 65537) }, "invalid spec.user_data: has 65537 bytes, at most 65536"},
		{"user data fits", func(s *api.VMSpec) { s.UserData = strings.Repeat("x", 65536) }, ""},
		{"model", func(s *api.VMSpec) { s.CPUModel = "Nehalem'/><x" }, "invalid spec.cpu_model: "},
		{"place", func(s *api.VMSpec) { s.Place = "osaka/" }, "invalid spec.place: SITE or SITE/HOST"},
		{"place of three", func(s *api.VMSpec) { s.Place = "osaka/h1/x" }, "invalid spec.place: SITE or SITE/HOST"},
		{"place not permitted", func(s *api.VMSpec) { s.Sites, s.Place = []string{"tokyo"}, "osaka/h1" }, "invalid spec.place: osaka is not among the permitted sites: tokyo"},
		{"keys", func(s *api.VMSpec) { s.SSHKeys = make([]string, 65) }, "invalid spec.ssh_keys: has 65 keys"},
		{"empty key", func(s *api.VMSpec) { s.SSHKeys = []string{""} }, "invalid spec.ssh_keys[0]: TYPE BASE64"},
		{"two lines", func(s *api.VMSpec) { s.SSHKeys = []string{ed25519 + "\n" + ed25519} }, "invalid spec.ssh_keys[0]: control"},
		{"other type", func(s *api.VMSpec) {
			s.SSHKeys = []string{ed25519, strings.Replace(ed25519, "ssh-ed25519", "ssh-rsa", 1)}
		}, "invalid spec.ssh_keys[1]: not of type"},
		{"cut off", func(s *api.VMSpec) { s.SSHKeys = []string{ed25519[:24]} }, "invalid spec.ssh_keys[0]: "},
		{"type only", func(s *api.VMSpec) { s.SSHKeys = []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5"} }, "invalid spec.ssh_keys[0]: cut off"},
		{"no base64", func(s *api.VMSpec) { s.SSHKeys = []string{"ssh-ed25519 !!!"} }, "invalid spec.ssh_keys[0]: not base64"},
		{"options", func(s *api.VMSpec) { s.SSHKeys = []string{`command="x" ` + ed25519} }, "invalid spec.ssh_keys[0]: "},
		{"private key", func(s *api.VMSpec) { s.SSHKeys = []string{"-----BEGIN OPENSSH PRIVATE KEY-----"} }, "invalid spec.ssh_keys[0]: private key"},
	} {
		v := &api.VM{Meta: api.Meta{Name: "web1"}, Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1, MemoryMiB: 64}, Image: "tiny", Network: "blue"}}
		tc.change(&v.Spec)
		check(t, tc.name, v, cloud.Known{}, tc.want)
	}
}

// TestAllFaults: whoever has made several mistakes is told of all of them at once.
func TestAllFaults(t *testing.T) {
	fields := func(err error) (out []string) {
		var e *api.Error
		if !errors.As(err, &e) {
			t.Fatalf("error is %v", err)
		}
		out = append(out, string(e.Code))
		for _, r := range e.Reasons {
			out = append(out, r.Field)
		}
		return out
	}
	known := cloud.Known{Networks: []api.Network{{Meta: api.Meta{Name: "red"}, Spec: api.NetworkSpec{Prefix: "2001:db8:1::/64", VNI: 7}}}}
	vm := func(phase api.VMPhase, spec api.VMSpec) *api.VM {
		return &api.VM{Meta: api.Meta{Name: "web1"}, Spec: spec, Status: api.VMStatus{Phase: phase}}
	}
	for _, tc := range []struct {
		name string
		err  error
		want []string
	}{
		{"a VM", cloud.Validate(&api.VM{Meta: api.Meta{Name: "Web1", Owner: "A"}, Spec: api.VMSpec{
			Hardware: api.Hardware{CPUs: 99, MemoryMiB: 1}, Image: "tiny", Power: "up", SSHKeys: []string{"x", ed25519, "y"}}}, known),
			[]string{"invalid", "name", "owner", "spec.cpus", "spec.memory_mib", "spec.network", "spec.power", "spec.ssh_keys[0]", "spec.ssh_keys[2]"}},
		{"a network", cloud.Validate(&api.Network{Meta: api.Meta{Name: "blue"}, Spec: api.NetworkSpec{Prefix: "2001:db8:1::/64", IPv4: "8.8.8.0/24", VNI: 7, MTU: 9000}}, known),
			[]string{"invalid", "spec.ipv4", "spec.mtu", "spec.prefix", "spec.vni"}},
		{"disks", cloud.Validate(&api.VM{Meta: api.Meta{Name: "web1", Owner: "a"}, Spec: api.VMSpec{
			Hardware: api.Hardware{CPUs: 1, MemoryMiB: 64}, Image: "tiny", Network: "blue", Power: "on",
			Disks: []api.Disk{disk("data", 1), disk("data", 1), disk("root", 0), disk("a-name-that-is-too-long", 1), disk("A", cloud.MaxDiskGiB+1)}}}, known),
			[]string{"invalid", "spec.disks[1].name", "spec.disks[2].name", "spec.disks[2].size_gib", "spec.disks[3].name", "spec.disks[4].name", "spec.disks[4].size_gib"}},
		{"too many disks", cloud.Validate(&api.VM{Meta: api.Meta{Name: "web1", Owner: "a"}, Spec: api.VMSpec{
			Hardware: api.Hardware{CPUs: 0, MemoryMiB: 64}, Image: "tiny", Network: "blue", Power: "on", Disks: make([]api.Disk, api.MaxDisks+1)}}, known),
			[]string{"invalid", "spec.cpus", "spec.disks"}},
		{"of one code", cloud.Validate(&api.Network{Meta: api.Meta{Name: "blue"}, Spec: api.NetworkSpec{Prefix: "2001:db8:1::/64", VNI: 7}}, known),
			[]string{"already-exists", "spec.prefix", "spec.vni"}},
		{"an offer", cloud.Validate(&api.Offer{Meta: api.Meta{Name: "x"}, Spec: api.OfferSpec{To: []string{"a", "B"}, LendLimit: api.Resources{CPUs: -1}}}, known),
			[]string{"invalid", "spec.to[1]", "spec.lend_limit.cpus", "spec.lease_seconds", "spec.on_reclaim"}},
		{"a change", update(vm(api.PhaseRunning, api.VMSpec{Hardware: api.Hardware{CPUs: 1}, Image: "a", Network: "n"}), vm("", api.VMSpec{Hardware: api.Hardware{CPUs: 2, MemoryMiB: 512, CPUModel: "x"}, Image: "b", Network: "m"})),
			[]string{"invalid", "spec.image", "spec.network", "spec.cpu_model"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, fields(tc.err)); d != "" {
				t.Errorf("(-want +got):\n%s\n%v", d, tc.err)
			}
		})
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = "No"
	}
	if got := fields(cloud.Validate(&api.Offer{Meta: api.Meta{Name: "x"}, Spec: api.OfferSpec{To: many}}, known)); len(got) > 40 {
		t.Errorf("%d faults are listed", len(got))
	}
}

func TestValidateNetwork(t *testing.T) {
	known := cloud.Known{Networks: []api.Network{
		{Meta: api.Meta{Name: "red"}, Spec: api.NetworkSpec{Prefix: "2001:db8:1::/64", IPv4: "10.1.0.0/24", VNI: 7}},
		{Meta: api.Meta{Name: "blue"}, Spec: api.NetworkSpec{Prefix: "2001:db8:2::/64", IPv4: "10.2.0.0/24", VNI: 8}},
	}}
	for _, tc := range []struct {
		name string
		spec api.NetworkSpec
		want string
	}{
		{"plain", api.NetworkSpec{Prefix: "2001:db8:9::/64"}, ""},
		{"unique local", api.NetworkSpec{Prefix: "fd00:1:2:3::/64"}, ""},
		{"itself", api.NetworkSpec{Prefix: "2001:db8:2::/64", IPv4: "10.2.0.0/24", VNI: 8}, ""},
		{"all", api.NetworkSpec{Prefix: "2001:db8:9::/64", IPv4: "192.168.0.0/16", Mobility: "l2", MTU: 1280, VNI: 1<<24 - 1}, ""},
		{"no prefix", api.NetworkSpec{}, "invalid spec.prefix: no prefix"},
		{"address", api.NetworkSpec{Prefix: "2001:db8:9::1"}, "invalid spec.prefix: no prefix"},
		{"host bits", api.NetworkSpec{Prefix: "2001:db8:9::1/64"}, "invalid spec.prefix: would be 2001:db8:9::/64"},
		{"length", api.NetworkSpec{Prefix: "2001:db8:9::/56"}, "invalid spec.prefix: not an IPv6 /64"},
		{"version", api.NetworkSpec{Prefix: "10.0.0.0/24"}, "invalid spec.prefix: not an IPv6 /64"},
		{"mapped", api.NetworkSpec{Prefix: "::ffff:10.0.0.0/120"}, "invalid spec.prefix: "},
		{"link-local", api.NetworkSpec{Prefix: "fe80::/64"}, "invalid spec.prefix: neither"},
		{"multicast", api.NetworkSpec{Prefix: "ff0e::/64"}, "invalid spec.prefix: neither"},
		{"overlap", api.NetworkSpec{Prefix: "2001:db8:1::/64"}, "already-exists spec.prefix: overlaps 2001:db8:1::/64 of network red"},
		{"public ipv4", api.NetworkSpec{Prefix: "2001:db8:9::/64", IPv4: "198.51.100.0/24"}, "invalid spec.ipv4: not private"},
		{"wider than private", api.NetworkSpec{Prefix: "2001:db8:9::/64", IPv4: "192.0.0.0/8"}, "invalid spec.ipv4: not private"},
		{"wide ipv4", api.NetworkSpec{Prefix: "2001:db8:9::/64", IPv4: "10.0.0.0/15"}, "invalid spec.ipv4: not between a /16 and a /28"},
		{"narrow ipv4", api.NetworkSpec{Prefix: "2001:db8:9::/64", IPv4: "10.0.0.0/29"}, "invalid spec.ipv4: not between a /16 and a /28"},
		{"ipv4 host bits", api.NetworkSpec{Prefix: "2001:db8:9::/64", IPv4: "10.0.0.1/24"}, "invalid spec.ipv4: would be 10.0.0.0/24"},
		{"ipv4 is v6", api.NetworkSpec{Prefix: "2001:db8:9::/64", IPv4: "fd00::/64"}, "invalid spec.ipv4: not private"},
		{"ipv4 overlap", api.NetworkSpec{Prefix: "2001:db8:9::/64", IPv4: "10.1.0.0/16"}, "already-exists spec.ipv4: overlaps 10.1.0.0/24 of network red"},
		{"mobility", api.NetworkSpec{Prefix: "2001:db8:9::/64", Mobility: "lisp"}, "invalid spec.mobility: not l2"},
		{"small mtu", api.NetworkSpec{Prefix: "2001:db8:9::/64", MTU: 1279}, "invalid spec.mtu: "},
		{"large mtu", api.NetworkSpec{Prefix: "2001:db8:9::/64", MTU: 1500}, "invalid spec.mtu: "},
		{"vni", api.NetworkSpec{Prefix: "2001:db8:9::/64", VNI: 1 << 24}, "invalid spec.vni: "},
		{"vni taken", api.NetworkSpec{Prefix: "2001:db8:9::/64", VNI: 7}, "already-exists spec.vni: network red's"},
	} {
		check(t, tc.name, &api.Network{Meta: api.Meta{Name: "blue"}, Spec: tc.spec}, known, tc.want)
	}
}

func TestValidateAddress(t *testing.T) {
	known := cloud.Known{
		Networks: []api.Network{{Meta: api.Meta{Name: "red"}, Spec: api.NetworkSpec{Prefix: "2001:db8:1::/64", IPv4: "10.1.0.0/24"}}},
		Addresses: []api.Address{
			{Meta: api.Meta{Name: "www"}, Spec: api.AddressSpec{Address: "203.0.113.10"}},
			{Meta: api.Meta{Name: "www6"}, Spec: api.AddressSpec{Address: "2001:db8:f::10"}},
		},
	}
	for address, want := range map[string]string{
		"203.0.113.11": "", "2001:db8:f::11": "",
		"":                    "invalid spec.address: no IPv4 or IPv6 address",
		"203.0.113.0/24":      "invalid spec.address: no IPv4 or IPv6 address",
		"203.0.113.256":       "invalid spec.address: no IPv4 or IPv6 address",
		"example.org":         "invalid spec.address: no IPv4 or IPv6 address",
		"fe80::1%eth0":        "invalid spec.address: has a zone",
		"::ffff:203.0.113.11": "invalid spec.address: write 203.0.113.11",
		"2001:DB8:f::11":      "invalid spec.address: write 2001:db8:f::11",
		"0.0.0.0":             "invalid spec.address: not a unicast", "0.1.2.3": "invalid spec.address: not a unicast",
		"127.0.0.1": "invalid spec.address: not a unicast", "255.255.255.255": "invalid spec.address: not a unicast",
		"240.0.0.1": "invalid spec.address: not a unicast", "224.0.0.1": "invalid spec.address: not a unicast",
		"169.254.1.1": "invalid spec.address: not a unicast", "::": "invalid spec.address: not a unicast",
		"::1": "invalid spec.address: not a unicast", "fe80::1": "invalid spec.address: not a unicast", "ff02::1": "invalid spec.address: not a unicast",
		"2001:db8:1::5":  "invalid spec.address: inside 2001:db8:1::/64 of network red",
		"10.1.0.9":       "invalid spec.address: inside 10.1.0.0/24 of network red",
		"203.0.113.10":   "already-exists spec.address: is address www already",
		"2001:db8:f::10": "already-exists spec.address: is address www6 already",
	} {
		check(t, address, &api.Address{Meta: api.Meta{Name: "new"}, Spec: api.AddressSpec{Address: address, VM: "web1"}}, known, want)
	}
	check(t, "itself", &api.Address{Meta: api.Meta{Name: "www"}, Spec: api.AddressSpec{Address: "203.0.113.10"}}, known, "")
	check(t, "vm", &api.Address{Meta: api.Meta{Name: "new"}, Spec: api.AddressSpec{Address: "203.0.113.11", VM: "a/b"}}, known, "invalid spec.vm: DNS label")
}

func TestValidateRest(t *testing.T) {
	meta := api.Meta{Name: "x"}
	image := func(s api.ImageSpec) *api.Image { return &api.Image{Meta: meta, Spec: s} }
	good := api.OfferSpec{To: []string{"*"}, LendLimit: api.Resources{CPUs: 4, MemoryMiB: 4096}, Lease: 60}
	offer := func(f func(*api.OfferSpec)) *api.Offer {
		o := &api.Offer{Meta: meta, Spec: good}
		f(&o.Spec)
		return o
	}
	loan := func(lender, borrower string, amount api.Resources) *api.Loan {
		return &api.Loan{Meta: meta, Spec: api.LoanSpec{Offer: "std", Lender: lender, Borrower: borrower, Amount: amount}}
	}
	host := func(roles ...api.HostRole) *api.Host { return &api.Host{Meta: meta, Spec: api.HostSpec{Roles: roles}} }
	peer := func(endpoint, fingerprint, cert string) *api.Peer {
		return &api.Peer{Meta: meta, Spec: api.PeerSpec{Endpoint: endpoint, Fingerprint: fingerprint, Certificate: cert}}
	}
	print := strings.Repeat("0f", 32)
	for _, tc := range []struct {
		name string
		o    api.Object
		want string
	}{
		{"uploaded image", image(api.ImageSpec{}), ""},
		{"image path", image(api.ImageSpec{Source: "/srv/tiny.qcow2", Digest: digest, Format: "qcow2"}), ""},
		{"image url", image(api.ImageSpec{Source: "https://example.org/tiny.raw?x=1", Format: "raw"}), ""},
		{"image url by address", image(api.ImageSpec{Source: "http://[2001:db8::1]:8080/tiny"}), ""},
		{"image of a VM", image(api.ImageSpec{VM: "web1", Disk: "data", Format: "qcow2"}), ""},
		{"image of no VM's disk", image(api.ImageSpec{Disk: "data"}), "invalid spec.disk: no VM"},
		{"image of a bad VM", image(api.ImageSpec{VM: "a b"}), "invalid spec.vm: DNS label"},
		{"image of a bad disk", image(api.ImageSpec{VM: "web1", Disk: "../x"}), "invalid spec.disk: DNS label"},
		{"image of a VM and a URL", image(api.ImageSpec{VM: "web1", Source: "https://example.org/x"}), "invalid spec.source: one source"},
		{"image of a VM with a digest", image(api.ImageSpec{VM: "web1", Digest: digest}), "invalid spec.digest: not known"},
		{"raw image of a VM", image(api.ImageSpec{VM: "web1", Format: "raw"}), "invalid spec.format: is qcow2"},
		{"relative path", image(api.ImageSpec{Source: "tiny.qcow2"}), "invalid spec.source: neither"},
		{"path upwards", image(api.ImageSpec{Source: "/srv/../etc/shadow"}), "invalid spec.source: would be /etc/shadow"},
		{"file url", image(api.ImageSpec{Source: "file:///etc/shadow"}), "invalid spec.source: neither"},
		{"url without host", image(api.ImageSpec{Source: "http:///x"}), "invalid spec.source: neither"},
		{"url with password", image(api.ImageSpec{Source: "https://u:p@example.org/x"}), "invalid spec.source: password"},
		{"source with newline", image(api.ImageSpec{Source: "/srv/a\nb"}), "invalid spec.source: control"},
		{"source with zero byte", image(api.ImageSpec{Source: "/srv/a\x00b"}), "invalid spec.source: control"},
		{"format", image(api.ImageSpec{Format: "vmdk"}), "invalid spec.format: not qcow2 or raw"},
		{"digest without type", image(api.ImageSpec{Digest: strings.Repeat("0a", 32)}), "invalid spec.digest: sha256:"},
		{"short digest", image(api.ImageSpec{Digest: digest[:70]}), "invalid spec.digest: sha256:"},
		{"upper case digest", image(api.ImageSpec{Digest: strings.Replace(digest, "a", "A", 1)}), "invalid spec.digest: sha256:"},

		{"offer", offer(func(*api.OfferSpec) {}), ""},
		{"offer to all and one", offer(func(s *api.OfferSpec) { s.To = []string{"*", "tokyo"} }), ""},
		{"offer with borrow limit", offer(func(s *api.OfferSpec) { s.BorrowLimit = &api.Resources{CPUs: 4} }), ""},
		{"to nobody", offer(func(s *api.OfferSpec) { s.To = nil }), "invalid spec.to: is empty"},
		{"to a bad name", offer(func(s *api.OfferSpec) { s.To = []string{"a", "b c"} }), "invalid spec.to[1]: DNS label"},
		{"offers nothing", offer(func(s *api.OfferSpec) { s.LendLimit = api.Resources{} }), "invalid spec.lend_limit: nothing"},
		{"negative offer", offer(func(s *api.OfferSpec) { s.LendLimit.Addresses = -1 }), "invalid spec.lend_limit.addresses: negative"},
		{"negative borrow limit", offer(func(s *api.OfferSpec) { s.BorrowLimit = &api.Resources{CPUs: -4} }), "invalid spec.borrow_limit.cpus: negative"},
		{"borrow over lend", offer(func(s *api.OfferSpec) { s.BorrowLimit = &api.Resources{CPUs: 5} }), "invalid spec.borrow_limit: more than spec.lend_limit"},
		{"no lease", offer(func(s *api.OfferSpec) { s.Lease = 0 }), "invalid spec.lease_seconds: is 0"},
		{"negative lease", offer(func(s *api.OfferSpec) { s.Lease = -1 }), "invalid spec.lease_seconds: not between"},
		{"endless lease", offer(func(s *api.OfferSpec) { s.Lease = api.Seconds(math.Inf(1)) }), "invalid spec.lease_seconds: not between"},
		{"grace is no number", offer(func(s *api.OfferSpec) { s.Grace = api.Seconds(math.NaN()) }), "invalid spec.grace_seconds: not between"},
		{"on reclaim", offer(func(s *api.OfferSpec) { s.OnReclaim = "burn" }), "invalid spec.on_reclaim: not stop"},

		{"loan", loan("osaka", "tokyo", api.Resources{CPUs: 1}), ""},
		{"loan to itself", loan("osaka", "osaka", api.Resources{CPUs: 1}), "invalid spec.borrower: itself"},
		{"loan of nothing", loan("osaka", "tokyo", api.Resources{}), "invalid spec.amount: nothing"},
		{"negative loan", loan("osaka", "tokyo", api.Resources{CPUs: 1, DiskGiB: -1}), "invalid spec.amount.disk_gib: negative"},
		{"loan of nobody", loan("", "tokyo", api.Resources{CPUs: 1}), "invalid spec.lender: missing"},

		{"host", host(api.RoleHypervisor, api.RoleGateway), ""},
		{"host without role", host(), "invalid spec.roles: is empty"},
		{"role twice", host(api.RoleGateway, api.RoleGateway), "invalid spec.roles[1]: twice"},
		{"unknown role", host("router"), "invalid spec.roles[0]: not hypervisor or gateway"},

		{"peer", peer("osaka.example.org:7443", print, "PEM"), ""},
		{"peer by address", peer("[2001:db8::1]:7443", print, "PEM"), ""},
		{"peer that dials", peer("", print, "PEM"), ""},
		{"peer without port", peer("osaka.example.org", print, "PEM"), "invalid spec.endpoint: HOST:PORT"},
		{"peer with port 0", peer("osaka:0", print, "PEM"), "invalid spec.endpoint: port"},
		{"peer with large port", peer("osaka:65536", print, "PEM"), "invalid spec.endpoint: port"},
		{"peer without brackets", peer("2001:db8::1:7443", print, "PEM"), "invalid spec.endpoint: brackets"},
		{"peer without host", peer(":7443", print, "PEM"), "invalid spec.endpoint: HOST:PORT"},
		{"peer with bad brackets", peer("[osaka]:7443", print, "PEM"), "invalid spec.endpoint: brackets"},
		{"peer fingerprint", peer("", "0f:0f", "PEM"), "invalid spec.fingerprint: 64"},
		{"peer certificate", peer("", print, ""), "invalid spec.certificate: missing"},
	} {
		check(t, tc.name, tc.o, cloud.Known{}, tc.want)
	}
}

func TestDefault(t *testing.T) {
	v, n, o := &api.VM{}, &api.Network{}, &api.Offer{}
	cloud.Default(v)
	cloud.Default(n)
	cloud.Default(o)
	if v.Spec.Power != api.PowerOn || n.Spec.Mobility != "l2" || n.Spec.MTU != 1430 || o.Spec.OnReclaim != api.ReclaimStop {
		t.Errorf("defaults are %+v, %+v, %+v", v.Spec, n.Spec, o.Spec)
	}
	v.Spec.Power, n.Spec.MTU = api.PowerOff, 1300
	cloud.Default(v)
	cloud.Default(n)
	if v.Spec.Power != api.PowerOff || n.Spec.MTU != 1300 {
		t.Error("a default overwrote a wish")
	}
}

// update gives what is wrong about a change as its user is told.
func update(was, now api.Object) error {
	if faults := cloud.UpdateFaults(was, now); len(faults) > 0 {
		return api.Faults(faults...)
	}
	return nil
}

func TestUpdateFaults(t *testing.T) {
	vm := func(phase api.VMPhase, f func(*api.VM)) *api.VM {
		v := &api.VM{Meta: api.Meta{Name: "web1", UID: "u", Owner: "wide", Home: "tokyo"}, Status: api.VMStatus{Phase: phase},
			Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1, MemoryMiB: 64}, Image: "tiny", Network: "blue", Power: api.PowerOn}}
		if f != nil {
			f(v)
		}
		return v
	}
	network := func(prefix string, vni uint32) *api.Network {
		return &api.Network{Spec: api.NetworkSpec{Prefix: prefix, VNI: vni}}
	}
	for _, tc := range []struct {
		name     string
		was, now api.Object
		want     string // CODE FIELD
	}{
		{"same", vm(api.PhaseRunning, nil), vm("", nil), ""},
		{"power, sites, keys", vm(api.PhaseRunning, nil), vm("", func(v *api.VM) {
			v.Spec.Power, v.Spec.Sites, v.Spec.SSHKeys = api.PowerOff, []string{"tokyo"}, []string{"k"}
		}), ""},
		{"name", vm(api.PhaseRunning, nil), vm("", func(v *api.VM) { v.Name = "web2" }), "invalid name"},
		{"uid", vm(api.PhaseRunning, nil), vm("", func(v *api.VM) { v.UID = "w" }), "invalid uid"},
		{"owner", vm(api.PhaseRunning, nil), vm("", func(v *api.VM) { v.Owner = "else" }), "invalid owner"},
		{"home", vm(api.PhaseRunning, nil), vm("", func(v *api.VM) { v.Home = "osaka" }), "invalid home"},
		{"image", vm(api.PhaseStopped, nil), vm("", func(v *api.VM) { v.Spec.Image = "big" }), "invalid spec.image"},
		{"network", vm(api.PhaseStopped, nil), vm("", func(v *api.VM) { v.Spec.Network = "red" }), "invalid spec.network"},
		{"a larger disk", vm(api.PhaseRunning, nil), vm("", func(v *api.VM) { v.Spec.DiskGiB = 9 }), ""},
		{"a smaller disk", vm(api.PhaseStopped, func(v *api.VM) { v.Spec.DiskGiB = 9 }), vm("", func(v *api.VM) { v.Spec.DiskGiB = 8 }), "invalid spec.disk_gib"},
		{"other disks", vm(api.PhaseRunning, func(v *api.VM) { v.Spec.Disks = []api.Disk{disk("a", 2), disk("b", 2)} }), vm("", func(v *api.VM) { v.Spec.Disks = []api.Disk{disk("c", 1), disk("b", 3)} }), ""},
		{"a smaller other disk", vm(api.PhaseRunning, func(v *api.VM) { v.Spec.Disks = []api.Disk{disk("a", 2), disk("b", 2)} }), vm("", func(v *api.VM) { v.Spec.Disks = []api.Disk{disk("b", 1)} }), "invalid spec.disks[0].size_gib"},
		{"place", vm(api.PhaseStopped, nil), vm("", func(v *api.VM) { v.Spec.Place = "osaka" }), "invalid spec.place"},
		{"cpus while running", vm(api.PhaseRunning, nil), vm("", func(v *api.VM) { v.Spec.CPUs = 2 }), ""},
		{"profile in doubt", vm(api.PhaseUnknown, nil), vm("", func(v *api.VM) { v.Spec.Profile = 2 }), "conflict spec.profile"},
		{"cpus while stopped", vm(api.PhaseStopped, nil), vm("", func(v *api.VM) { v.Spec.CPUs = 2 }), ""},
		{"memory while running", vm(api.PhaseRunning, nil), vm("", func(v *api.VM) { v.Spec.MemoryMiB = 128 }), ""},
		{"model while running", vm(api.PhaseRunning, nil), vm("", func(v *api.VM) { v.Spec.CPUModel = "x" }), "conflict spec.cpu_model"},
		{"prefix", network("2001:db8:1::/64", 1), network("2001:db8:2::/64", 1), "invalid spec.prefix"},
		{"vni", network("2001:db8:1::/64", 1), network("2001:db8:1::/64", 2), "invalid spec.vni"},
		{"address", &api.Address{Spec: api.AddressSpec{Address: "203.0.113.1"}}, &api.Address{Spec: api.AddressSpec{Address: "203.0.113.2"}}, "invalid spec.address"},
		{"address to another vm", &api.Address{Spec: api.AddressSpec{VM: "a"}}, &api.Address{Spec: api.AddressSpec{VM: "b"}}, ""},
		{"image digest", &api.Image{}, &api.Image{Spec: api.ImageSpec{Digest: digest}}, "invalid spec.digest"},
		{"loan", &api.Loan{}, &api.Loan{Spec: api.LoanSpec{Amount: api.Resources{CPUs: 1}}}, "invalid spec"},
		{"peer", &api.Peer{}, &api.Peer{Spec: api.PeerSpec{Certificate: "x"}}, "invalid spec.certificate"},
		{"kind", &api.Peer{}, &api.Loan{}, "invalid kind"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := "", update(tc.was, tc.now)
			var e *api.Error
			if errors.As(err, &e) {
				got = string(e.Code) + " " + e.Field
			} else if err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("error is %v, want %q", err, tc.want)
			}
		})
	}
}

// located tells whether an error names the field of each of its faults, and says what is wrong with it.
func located(e *api.Error) bool {
	for _, r := range e.Reasons {
		if e.Field == "" && (r.Field == "" || !strings.HasPrefix(r.Message, r.Field+": ")) {
			return false
		}
	}
	return e.Message != "" && (e.Field != "" || len(e.Reasons) > 1)
}

func FuzzValidate(f *testing.F) {
	f.Add("web1", "2001:db8::/64", "203.0.113.1", ed25519, "https://example.org/x", "osaka/h1")
	f.Add("", "::/64", "::1%x", "ssh-rsa \xff", "/../x", "/")
	f.Fuzz(func(t *testing.T, name, prefix, address, key, source, place string) {
		m := api.Meta{Name: name}
		for _, o := range []api.Object{
			&api.VM{Meta: m, Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1, MemoryMiB: 64}, Image: "i", Network: "n", Power: "on", SSHKeys: []string{key}, Place: place}},
			&api.Network{Meta: m, Spec: api.NetworkSpec{Prefix: prefix, IPv4: address}},
			&api.Network{Meta: m, Spec: api.NetworkSpec{Prefix: "2001:db8::/64", IPv4: prefix}},
			&api.Address{Meta: m, Spec: api.AddressSpec{Address: address}},
			&api.Image{Meta: m, Spec: api.ImageSpec{Source: source, Digest: key}},
			&api.Peer{Meta: m, Spec: api.PeerSpec{Endpoint: address, Fingerprint: strings.Repeat("0", 64), Certificate: "x"}},
		} {
			err := cloud.Validate(o, cloud.Known{})
			if err != nil {
				var e *api.Error
				if !errors.As(err, &e) || !located(e) {
					t.Fatalf("%#v: %v", o, err)
				}
				continue
			}
			// What passes is safe to put into a file or a command, line by line and word by word.
			const unsafe = " \t\r\n\x00'\"\\$`;&|<>"
			words, lines := name, ""
			switch o := o.(type) {
			case *api.VM:
				words, lines = words+o.Spec.Place, key
			case *api.Network:
				words += o.Spec.Prefix + o.Spec.IPv4
			case *api.Address:
				words += o.Spec.Address
				if a, err := netip.ParseAddr(address); err != nil || a.String() != address {
					t.Fatalf("passed: %#v", o)
				}
			case *api.Image:
				words, lines = words+o.Spec.Digest, source
			case *api.Peer:
				lines = o.Spec.Endpoint
			}
			if strings.ContainsAny(words, unsafe) || strings.ContainsAny(lines, "\r\n\x00") {
				t.Fatalf("passed: %#v", o)
			}
		}
	})
}

func TestAddresses(t *testing.T) {
	// RFC 4291 Appendix A: 34-56-78-9A-BC-DE becomes 3656:78ff:fe9a:bcde.
	mac, err := cloud.ParseMAC("34:56:78:9a:bc:de")
	if err != nil {
		t.Fatal(err)
	}
	prefix := netip.MustParsePrefix("2001:db8:5::/64")
	if got := cloud.EUI64(prefix, mac).String(); got != "2001:db8:5:0:3656:78ff:fe9a:bcde" {
		t.Errorf("EUI-64 is %s", got)
	}
	for _, p := range []string{"2001:db8::/56", "10.0.0.0/24"} {
		if a := cloud.EUI64(netip.MustParsePrefix(p), mac); a.IsValid() {
			t.Errorf("EUI-64 in %s is %s", p, a)
		}
	}
	for _, s := range []string{"", "34:56:78:9a:bc", "34-56-78-9a-bc-de", "34:56:78:9a:bc:dg", "34:56:78:9a:bc:de:"} {
		if a, err := cloud.ParseMAC(s); err == nil {
			t.Errorf("%q is %s", s, a)
		}
	}
	// The same for the same, at every site and in every version: these figures are a contract.
	const uid = "0e4e2dd8-8a12-4b7e-9a33-5b3f5b1c0a01"
	if got := cloud.MAC(uid).String(); got != "06:8b:d8:c4:67:7b" {
		t.Errorf("MAC is %s", got)
	}
	seen := map[cloud.HardwareAddr]bool{}
	for i := range 5000 {
		m := cloud.MAC(uid + strings.Repeat("x", i%50) + string(rune('a'+i/50)))
		if m[0]&3 != 2 || seen[m] {
			t.Fatalf("%s is not local, not unicast, or not new", m)
		}
		seen[m] = true
		if back, err := cloud.ParseMAC(m.String()); err != nil || back != m {
			t.Fatalf("%s is read as %s, %v", m, back, err)
		}
	}
}

func TestIPv4For(t *testing.T) {
	for _, tc := range []struct {
		prefix string
		index  int
		want   string
	}{
		{"10.0.0.0/24", 0, "10.0.0.1"}, {"10.0.0.0/24", 253, "10.0.0.254"}, {"10.0.0.0/24", 254, ""}, {"10.0.0.0/24", -1, ""},
		{"10.9.0.0/16", 65533, "10.9.255.254"}, {"10.9.0.0/16", 65534, ""}, {"10.9.0.0/16", 255, "10.9.1.0"},
		{"10.0.0.16/28", 13, "10.0.0.30"}, {"10.0.0.16/28", 14, ""}, {"10.0.0.0/30", 0, ""}, {"fd00::/64", 0, ""},
	} {
		got := cloud.IPv4For(netip.MustParsePrefix(tc.prefix), tc.index)
		if got.IsValid() != (tc.want != "") || (got.IsValid() && got.String() != tc.want) {
			t.Errorf("%d of %s is %s; want %q", tc.index, tc.prefix, got, tc.want)
		}
	}
	if a := cloud.IPv4For(netip.Prefix{}, 0); a.IsValid() {
		t.Errorf("an invalid prefix has %s", a)
	}
}

func TestVNI(t *testing.T) {
	free := func(uint32) bool { return false }
	first := cloud.VNI("u", free)
	if first == 0 || first > cloud.MaxVNI || first != cloud.VNI("u", free) {
		t.Errorf("vni is %d", first)
	}
	if got, want := cloud.VNI("u", func(v uint32) bool { return v == first }), first%cloud.MaxVNI+1; got != want {
		t.Errorf("vni beside %d is %d, want %d", first, got, want)
	}
	if got := cloud.VNI("u", func(v uint32) bool { return v != 1 }); got != 1 {
		t.Errorf("the only free vni is 1, got %d", got)
	}
	if got := cloud.VNI("u", func(uint32) bool { return true }); got != 0 {
		t.Errorf("none is free, got %d", got)
	}
}

func disk(name string, gib int) api.Disk { return api.Disk{Name: name, SizeGiB: gib} }
