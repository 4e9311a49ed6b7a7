package cloud

import (
	"maps"
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
	if m := o.Metadata(); len(m.Labels) == 0 {
		m.Labels = nil
	}
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

// Validate judges an object's name, owner, labels and spec, after Default. The error has all faults at once (api.Faults).
func Validate(o api.Object, k Known) error {
	if faults := FaultsOf(o, k); len(faults) > 0 {
		return api.Faults(faults...)
	}
	return nil
}

// FaultsOf is Validate for a caller that has faults of its own to add: one error for each fault, none if there is none.
func FaultsOf(o api.Object, k Known) []*api.Error {
	m := o.Metadata()
	faults := some(checkName("name", m.Name))
	if m.Owner != "" {
		faults = append(faults, some(checkName("owner", m.Owner))...)
	}
	if m.Home != "" {
		faults = append(faults, some(checkName("home", m.Home))...)
	}
	faults = append(faults, checkLabels(m.Labels)...)
	return append(faults, specFaults(o, k)...)
}

func specFaults(o api.Object, k Known) []*api.Error {
	switch o := o.(type) {
	case *api.VM:
		was, _ := k.Was.(*api.VM)
		return checkVM(o, was)
	case *api.Network:
		return checkNetwork(o, k)
	case *api.Address:
		return checkAddress(o, k)
	case *api.Image:
		return checkImage(o)
	case *api.Volume:
		return some(checkRange("spec.size_gib", o.Spec.SizeGiB, 1, MaxDiskGiB), CheckPlace("spec.place", o.Spec.Place, nil))
	case *api.Offer:
		return checkOffer(o)
	case *api.Loan:
		return checkLoan(o)
	case *api.Host:
		return checkHost(o)
	case *api.Peer:
		return checkPeer(o)
	case *api.Owner:
		return append(checkQuota("spec.quota", o.Spec.Quota), some(checkText("spec.title", o.Spec.Title, 200))...)
	}
	return nil
}

// some leaves out what is nil.
func some(errs ...*api.Error) (faults []*api.Error) {
	for _, err := range errs {
		if err != nil {
			faults = append(faults, err)
		}
	}
	return faults
}

func firstOf(errs ...*api.Error) *api.Error {
	for _, err := range errs {
		if err != nil {
			return err
		}
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

func checkLabels(labels map[string]string) (faults []*api.Error) {
	if len(labels) > api.MaxLabels {
		return some(api.Invalidf("labels", "has %d labels, at most %d are possible", len(labels), api.MaxLabels))
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if err := api.CheckLabel(key, labels[key]); err != nil {
			faults = append(faults, api.Invalidf("labels", "%v", err))
		}
	}
	return faults
}

// checkNames judges a list of names, without duplicates.
func checkNames(field string, names []string, wildcard bool) (faults []*api.Error) {
	seen := map[string]bool{}
	for i, n := range names {
		f := field + "[" + strconv.Itoa(i) + "]"
		switch err := checkName(f, n); {
		case err != nil && !(wildcard && n == "*"):
			faults = append(faults, err)
		case seen[n]:
			faults = append(faults, api.Invalidf(f, "%s is named twice", n))
		}
		seen[n] = true
	}
	return faults
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

// checkQuota judges the limits that are given.
func checkQuota(field string, q *api.Quota) (faults []*api.Error) {
	if q == nil {
		return nil
	}
	for _, l := range lend.Limits(*q) {
		if l.Most != nil && *l.Most < 0 {
			faults = append(faults, api.Invalidf(field+"."+l.Name, "%d is negative; leave it out for no limit", *l.Most))
		}
	}
	return faults
}

func checkVM(v, was *api.VM) []*api.Error {
	s := &v.Spec
	faults := append(hardwareFaults("spec", s.Hardware), some(
		checkRange("spec.disk_gib", s.DiskGiB, 0, MaxDiskGiB),
		checkName("spec.image", s.Image),
		checkName("spec.network", s.Network),
		checkPower("spec.power", s.Power, was),
		CheckPlace("spec.place", s.Place, s.Sites),
	)...)
	faults = append(faults, diskFaults("spec.disks", s.Disks)...)
	faults = append(faults, checkNames("spec.sites", s.Sites, false)...)
	faults = append(faults, some(checkService("spec.service", s.Service, was))...)
	if len(s.UserData) > MaxUserData {
		faults = append(faults, api.Invalidf("spec.user_data", "has %d bytes, at most %d are possible", len(s.UserData), MaxUserData))
	}
	return append(faults, checkSSHKeys("spec.ssh_keys", s.SSHKeys, was)...)
}

// maxService is how many service addresses a VM can be created with; it has one of each family.
const maxService = 2

// checkService judges how many service addresses a new VM is to have.
func checkService(field string, service []string, was *api.VM) *api.Error {
	switch {
	case was != nil && len(service) > 0:
		return api.Invalidf(field, "is for the creation; lead an address to the VM: wcc address bind ADDRESS %s", was.Name)
	case len(service) > maxService:
		return api.Invalidf(field, "has %d addresses, at most %d are possible: one of each family", len(service), maxService)
	}
	return nil
}

func checkPower(field string, p api.Power, was *api.VM) *api.Error {
	switch {
	case p == api.PowerOn, p == api.PowerOff, p == api.PowerOffHard, was != nil && (p == api.PowerSuspended || p == api.PowerHibernated):
		return nil
	case p == api.PowerSuspended, p == api.PowerHibernated:
		return api.Invalidf(field, "%s is for a VM that runs; a new one is to be on, or off", p)
	}
	return api.Invalidf(field, "%.60q is not on, off, off-hard, suspended or hibernated", string(p))
}

// CheckPlace judges SITE or SITE/HOST, at one of the permitted sites.
func CheckPlace(field, place string, permitted []string) *api.Error {
	if place == "" {
		return nil
	}
	site, host, split := strings.Cut(place, "/")
	if checkName("", site) != nil || (split && checkName("", host) != nil) {
		return api.Invalidf(field, "%.100q is not SITE or SITE/HOST", place)
	}
	if len(permitted) > 0 && !slices.Contains(permitted, site) {
		return api.Invalidf(field, "%s is not among the permitted sites: %.200s", site, strings.Join(permitted, ", "))
	}
	return nil
}

// checkSSHKeys judges each key, and the size of all; keys that were accepted before may stay.
func checkSSHKeys(field string, keys []string, was *api.VM) (faults []*api.Error) {
	if len(keys) > MaxSSHKeys {
		return some(api.Invalidf(field, "has %d keys, at most %d are possible", len(keys), MaxSSHKeys))
	}
	for i, k := range keys {
		faults = append(faults, some(checkSSHKey(field+"["+strconv.Itoa(i)+"]", k))...)
	}
	if was == nil || !slices.Equal(was.Spec.SSHKeys, keys) {
		if err := CheckKeys(field, keys); err != nil {
			faults = append(faults, err.(*api.Error))
		}
	}
	return faults
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

func checkImage(m *api.Image) []*api.Error {
	s := m.Spec
	faults := some(checkSource("spec.source", s.Source))
	switch s.Format {
	case "", "qcow2", "raw":
	default:
		faults = append(faults, api.Invalidf("spec.format", "%.60q is not qcow2 or raw", s.Format))
	}
	if s.Digest != "" {
		faults = append(faults, some(checkDigest("spec.digest", s.Digest))...)
	}
	return append(faults, checkFromVM(s)...)
}

// checkFromVM judges an image that is made of a VM's disk. What that will be nobody knows before.
func checkFromVM(s api.ImageSpec) []*api.Error {
	if s.VM == "" {
		if s.Disk != "" {
			return []*api.Error{api.Invalidf("spec.disk", "names a disk, and spec.vm no VM")}
		}
		return nil
	}
	faults := some(checkName("spec.vm", s.VM))
	if s.Disk != "" {
		faults = append(faults, some(checkName("spec.disk", s.Disk))...)
	}
	if s.Source != "" {
		faults = append(faults, api.Invalidf("spec.source", "an image has one source: this, or spec.vm"))
	}
	if s.Digest != "" {
		faults = append(faults, api.Invalidf("spec.digest", "the digest of a VM's disk is not known before it is read"))
	}
	if s.Format == "raw" {
		faults = append(faults, api.Invalidf("spec.format", "an image of a VM's disk is qcow2"))
	}
	return faults
}

// checkSource judges where an image comes from: a path, a URL, or "" for an upload.
func checkSource(field, source string) *api.Error {
	if err := checkText(field, source, 4096); err != nil || source == "" {
		return err
	}
	if strings.HasPrefix(source, "/") {
		if path.Clean(source) != source {
			return api.Invalidf(field, "%s is not a plain path; it would be %s", source, path.Clean(source))
		}
		return nil
	}
	u, err := url.Parse(source)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return api.Invalidf(field, "%q is neither an absolute path nor an http or https URL", source)
	}
	if u.User != nil {
		return api.Invalidf(field, "a URL with a user or password would be shown to everyone who may list images")
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

func checkOffer(o *api.Offer) []*api.Error {
	s := o.Spec
	faults := checkNames("spec.to", s.To, true)
	if len(s.To) == 0 {
		faults = append(faults, api.Invalidf("spec.to", "is empty: name sites, or * for every peer"))
	}
	faults = append(faults, some(
		firstOf(checkAmount("spec.lend_limit", s.LendLimit), checkSomething("spec.lend_limit", s.LendLimit)),
		checkBorrowLimit("spec.borrow_limit", s.BorrowLimit, s.LendLimit),
		checkSeconds("spec.lease_seconds", s.Lease),
		checkSeconds("spec.grace_seconds", s.Grace),
	)...)
	if s.Lease == 0 {
		faults = append(faults, api.Invalidf("spec.lease_seconds", "is 0: a loan would end at once"))
	}
	if s.OnReclaim != api.ReclaimStop {
		faults = append(faults, api.Invalidf("spec.on_reclaim", "%.60q is not stop", string(s.OnReclaim)))
	}
	return faults
}

func checkSomething(field string, r api.Resources) *api.Error {
	if r == (api.Resources{}) {
		return api.Invalidf(field, "offers nothing")
	}
	return nil
}

func checkBorrowLimit(field string, each *api.Resources, all api.Resources) *api.Error {
	if each == nil {
		return nil
	}
	if err := checkAmount(field, *each); err != nil {
		return err
	}
	if rs := lend.Fits("spec.lend_limit", all, *each); len(rs) > 0 && lend.Negative(all) == "" {
		return &api.Error{Code: api.CodeInvalid, Field: field, Message: "is more than spec.lend_limit", Reasons: rs}
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

func checkLoan(l *api.Loan) []*api.Error {
	s := l.Spec
	faults := some(
		checkName("spec.offer", s.Offer), checkName("spec.lender", s.Lender), checkName("spec.borrower", s.Borrower),
		checkAmount("spec.amount", s.Amount))
	if s.Lender == s.Borrower {
		faults = append(faults, api.Invalidf("spec.borrower", "a site does not borrow from itself"))
	}
	if s.Amount == (api.Resources{}) {
		faults = append(faults, api.Invalidf("spec.amount", "is nothing"))
	}
	return faults
}

func checkHost(h *api.Host) (faults []*api.Error) {
	if len(h.Spec.Roles) == 0 {
		return some(api.Invalidf("spec.roles", "is empty: hypervisor, gateway or both"))
	}
	seen := map[api.HostRole]bool{}
	for i, r := range h.Spec.Roles {
		field := "spec.roles[" + strconv.Itoa(i) + "]"
		if r != api.RoleHypervisor && r != api.RoleGateway {
			faults = append(faults, api.Invalidf(field, "%.60q is not hypervisor or gateway", string(r)))
		} else if seen[r] {
			faults = append(faults, api.Invalidf(field, "%s is named twice", r))
		}
		seen[r] = true
	}
	return faults
}

func checkPeer(p *api.Peer) (faults []*api.Error) {
	if e := p.Spec.Endpoint; e != "" {
		faults = some(checkEndpoint("spec.endpoint", e))
	}
	if f := p.Spec.Fingerprint; len(f) != 64 || !isHex(f) {
		faults = append(faults, api.Invalidf("spec.fingerprint", "%.80q is not 64 lower-case hexadecimal digits", f))
	}
	if p.Spec.Certificate == "" {
		faults = append(faults, api.Invalidf("spec.certificate", "is missing"))
	}
	return faults
}
