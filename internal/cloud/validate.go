package cloud

import (
	"math"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"widecloud/api"
	"widecloud/internal/lend"
)

// The limits of specs.
const (
	MaxName     = 40       // bytes of a name
	MaxUserData = 64 << 10 // bytes of cloud-init user-data
	MaxSSHKeys  = 64
	MaxKeyBytes = 32 << 10 // of all SSH keys of a VM together
	MaxDiskGiB  = 1 << 16

	maxCPUs      = 64
	minMemoryMiB = 64
	maxMemoryMiB = 1 << 20
)

// Known is what a new spec must not clash with. An object of the same name as the one that is validated is that object
// itself, and is left out.
type Known struct {
	Networks  []api.Network // of the site
	Addresses []api.Address // of the site
	Was       api.Object    // what is replaced; nil for a new object. A limit that came later does not forbid what is there
}

// Default fills in what a spec leaves open and the documentation has a default for.
func Default(o api.Object) {
	switch o := o.(type) {
	case *api.VM:
		if o.Spec.Power == "" {
			o.Spec.Power = api.PowerOn
		}
	case *api.Network:
		if o.Spec.Mobility == "" {
			o.Spec.Mobility = "l2"
		}
		if o.Spec.MTU == 0 {
			o.Spec.MTU = maxMTU
		}
	case *api.Offer:
		if o.Spec.OnReclaim == "" {
			o.Spec.OnReclaim = api.ReclaimStop
		}
	}
}

// Validate judges an object's name, owner and spec, after Default. The first fault found is the error.
func Validate(o api.Object, k Known) error {
	m := o.Metadata()
	if err := checkName("name", m.Name); err != nil {
		return err
	}
	if m.Owner != "" {
		if err := checkName("owner", m.Owner); err != nil {
			return err
		}
	}
	if m.Home != "" {
		if err := checkName("home", m.Home); err != nil {
			return err
		}
	}
	var err *api.Error
	switch o := o.(type) {
	case *api.VM:
		was, _ := k.Was.(*api.VM)
		err = checkVM(o, was)
	case *api.Network:
		err = checkNetwork(o, k)
	case *api.Address:
		err = checkAddress(o, k)
	case *api.Image:
		err = checkImage(o)
	case *api.Offer:
		err = checkOffer(o)
	case *api.Loan:
		err = checkLoan(o)
	case *api.Host:
		err = checkHost(o)
	case *api.Peer:
		err = checkPeer(o)
	case *api.Owner:
		if q := o.Spec.Quota; q != nil {
			err = checkAmount("spec.quota", *q)
		}
		if err == nil {
			err = checkText("spec.title", o.Spec.Title, 200)
		}
	}
	if err != nil { // an interface of a nil *api.Error would not be nil
		return err
	}
	return nil
}

// ValidateName judges a name: a DNS label (RFC 1123 §2.1) of at most 40 bytes, in lower case.
func ValidateName(field, name string) error {
	if err := checkName(field, name); err != nil {
		return err
	}
	return nil
}

func checkName(field, name string) *api.Error {
	if name == "" {
		return api.Invalidf(field, "is missing")
	}
	if len(name) > MaxName {
		return api.Invalidf(field, "%q has %d characters, at most %d are possible", name[:MaxName]+"…", len(name), MaxName)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-' && i > 0 && i < len(name)-1:
		default:
			return api.Invalidf(field, "%q is no DNS label: lower-case letters, digits and inner hyphens only", name)
		}
	}
	return nil
}

// checkNames judges a list of names, without duplicates.
func checkNames(field string, names []string, wildcard bool) *api.Error {
	seen := map[string]bool{}
	for i, n := range names {
		f := field + "[" + strconv.Itoa(i) + "]"
		if !(wildcard && n == "*") {
			if err := checkName(f, n); err != nil {
				return err
			}
		}
		if seen[n] {
			return api.Invalidf(f, "%s is named twice", n)
		}
		seen[n] = true
	}
	return nil
}

func checkRange(field string, n, low, high int) *api.Error {
	if n < low || n > high {
		return api.Invalidf(field, "%d is not between %d and %d", n, low, high)
	}
	return nil
}

// checkText judges a line that people read.
func checkText(field, s string, most int) *api.Error {
	if len(s) > most {
		return api.Invalidf(field, "has %d bytes, at most %d are possible", len(s), most)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return api.Invalidf(field, "holds control characters, or is not UTF-8")
	}
	return nil
}

func checkAmount(field string, r api.Resources) *api.Error {
	if name := lend.Negative(r); name != "" {
		return api.Invalidf(field+"."+name, "is negative")
	}
	return nil
}

func firstOf(errs ...*api.Error) *api.Error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkVM(v, was *api.VM) *api.Error {
	s := &v.Spec
	err := firstOf(
		checkRange("spec.cpus", s.CPUs, 1, maxCPUs),
		checkRange("spec.memory_mib", s.MemoryMiB, minMemoryMiB, maxMemoryMiB),
		checkRange("spec.disk_gib", s.DiskGiB, 0, MaxDiskGiB),
		checkName("spec.image", s.Image),
		checkName("spec.network", s.Network),
		checkNames("spec.sites", s.Sites, false),
		checkCPUModel("spec.cpu_model", s.CPUModel),
	)
	if err != nil {
		return err
	}
	switch s.Power {
	case api.PowerOn, api.PowerOff, "off-hard":
	default:
		return api.Invalidf("spec.power", "%q is not on, off or off-hard", string(s.Power))
	}
	if len(s.UserData) > MaxUserData {
		return api.Invalidf("spec.user_data", "has %d bytes, at most %d are possible", len(s.UserData), MaxUserData)
	}
	if len(s.SSHKeys) > MaxSSHKeys {
		return api.Invalidf("spec.ssh_keys", "has %d keys, at most %d are possible", len(s.SSHKeys), MaxSSHKeys)
	}
	for i, k := range s.SSHKeys {
		if err := checkSSHKey("spec.ssh_keys["+strconv.Itoa(i)+"]", k); err != nil {
			return err
		}
	}
	if was == nil || !slices.Equal(was.Spec.SSHKeys, s.SSHKeys) {
		if err := CheckKeys("spec.ssh_keys", s.SSHKeys); err != nil {
			return err.(*api.Error)
		}
	}
	if s.Place != "" {
		site, host, split := strings.Cut(s.Place, "/")
		if checkName("", site) != nil || (split && checkName("", host) != nil) {
			return api.Invalidf("spec.place", "%q is not SITE or SITE/HOST", s.Place)
		}
		if len(s.Sites) > 0 && !slices.Contains(s.Sites, site) {
			return api.Invalidf("spec.place", "%s is not among the permitted sites: %s", site, strings.Join(s.Sites, ", "))
		}
	}
	return nil
}

// checkCPUModel keeps what goes into the hypervisor's XML to the letters that models have.
func checkCPUModel(field, model string) *api.Error {
	if len(model) > 64 || strings.ContainsFunc(model, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
	}) {
		return api.Invalidf(field, "%.64q is no CPU model: letters, digits, '-', '_' and '.' only", model)
	}
	return nil
}

func checkImage(m *api.Image) *api.Error {
	s := m.Spec
	switch s.Format {
	case "", "qcow2", "raw":
	default:
		return api.Invalidf("spec.format", "%q is not qcow2 or raw", s.Format)
	}
	if s.Digest != "" {
		if err := checkDigest("spec.digest", s.Digest); err != nil {
			return err
		}
	}
	if err := checkText("spec.source", s.Source, 4096); err != nil {
		return err
	}
	switch {
	case s.Source == "": // uploaded
	case strings.HasPrefix(s.Source, "/"):
		if path.Clean(s.Source) != s.Source {
			return api.Invalidf("spec.source", "%s is not a plain path; it would be %s", s.Source, path.Clean(s.Source))
		}
	default:
		u, err := url.Parse(s.Source)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
			return api.Invalidf("spec.source", "%q is neither an absolute path nor an http or https URL", s.Source)
		}
		if u.User != nil {
			return api.Invalidf("spec.source", "a URL with a user or password would be shown to everyone who may list images")
		}
	}
	return nil
}

// ValidateDigest judges the syntax of a digest: sha256: and 64 lower-case hexadecimal digits.
func ValidateDigest(field, digest string) error {
	if err := checkDigest(field, digest); err != nil {
		return err
	}
	return nil
}

func checkDigest(field, digest string) *api.Error {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(hex) != 64 || !isHex(hex) {
		return api.Invalidf(field, "%.80q is not sha256: with 64 lower-case hexadecimal digits", digest)
	}
	return nil
}

func isHex(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'f') })
}

func checkOffer(o *api.Offer) *api.Error {
	s := o.Spec
	if len(s.To) == 0 {
		return api.Invalidf("spec.to", "is empty: name sites, or * for every peer")
	}
	if err := firstOf(checkNames("spec.to", s.To, true), checkAmount("spec.lend_limit", s.LendLimit)); err != nil {
		return err
	}
	if s.LendLimit == (api.Resources{}) {
		return api.Invalidf("spec.lend_limit", "offers nothing")
	}
	if b := s.BorrowLimit; b != nil {
		if err := checkAmount("spec.borrow_limit", *b); err != nil {
			return err
		}
		if rs := lend.Fits("spec.lend_limit", s.LendLimit, *b); len(rs) > 0 {
			return &api.Error{Code: api.CodeInvalid, Field: "spec.borrow_limit", Message: "is more than spec.lend_limit", Reasons: rs}
		}
	}
	if err := firstOf(checkSeconds("spec.lease_seconds", s.Lease), checkSeconds("spec.grace_seconds", s.Grace)); err != nil {
		return err
	}
	if s.Lease == 0 {
		return api.Invalidf("spec.lease_seconds", "is 0: a loan would end at once")
	}
	if s.OnReclaim != api.ReclaimStop {
		return api.Invalidf("spec.on_reclaim", "%q is not stop", string(s.OnReclaim))
	}
	return nil
}

const maxSeconds = 366 * 24 * 3600

func checkSeconds(field string, s api.Seconds) *api.Error {
	if f := float64(s); math.IsNaN(f) || f < 0 || f > maxSeconds {
		return api.Invalidf(field, "%v is not between 0 and %d (a year)", f, maxSeconds)
	}
	return nil
}

func checkLoan(l *api.Loan) *api.Error {
	s := l.Spec
	if err := firstOf(checkName("spec.offer", s.Offer), checkName("spec.lender", s.Lender), checkName("spec.borrower", s.Borrower),
		checkAmount("spec.amount", s.Amount)); err != nil {
		return err
	}
	if s.Lender == s.Borrower {
		return api.Invalidf("spec.borrower", "a site does not borrow from itself")
	}
	if s.Amount == (api.Resources{}) {
		return api.Invalidf("spec.amount", "is nothing")
	}
	return nil
}

func checkHost(h *api.Host) *api.Error {
	if len(h.Spec.Roles) == 0 {
		return api.Invalidf("spec.roles", "is empty: hypervisor, gateway or both")
	}
	seen := map[api.HostRole]bool{}
	for i, r := range h.Spec.Roles {
		field := "spec.roles[" + strconv.Itoa(i) + "]"
		if r != api.RoleHypervisor && r != api.RoleGateway {
			return api.Invalidf(field, "%q is not hypervisor or gateway", string(r))
		}
		if seen[r] {
			return api.Invalidf(field, "%s is named twice", r)
		}
		seen[r] = true
	}
	return nil
}

func checkPeer(p *api.Peer) *api.Error {
	if e := p.Spec.Endpoint; e != "" {
		if err := checkEndpoint("spec.endpoint", e); err != nil {
			return err
		}
	}
	if f := p.Spec.Fingerprint; len(f) != 64 || !isHex(f) {
		return api.Invalidf("spec.fingerprint", "%.80q is not 64 lower-case hexadecimal digits", f)
	}
	if p.Spec.Certificate == "" {
		return api.Invalidf("spec.certificate", "is missing")
	}
	return nil
}
