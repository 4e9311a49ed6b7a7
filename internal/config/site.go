package config

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
)

// Site is the configuration of a site's controller, `wcc serve`. examples/site.toml explains every field.
type Site struct {
	Site     string              `toml:"site"`
	DataDir  string              `toml:"data_dir"`
	API      SiteAPI             `toml:"api"`
	Outside  SiteOutside         `toml:"outside"`
	Location SiteLocation        `toml:"location"`
	Network  SiteNetwork         `toml:"network"`
	Pool     map[string]SitePool `toml:"pool"` // the address plan, by the pools' names
	Lending  SiteLending         `toml:"lending"`
	Volumes  SiteVolumes         `toml:"volumes"`
	Audit    SiteAudit           `toml:"audit"`
	Log      Log                 `toml:"log"`
	Metrics  MetricsOptions      `toml:"metrics"`
}

// SiteAPI is how users reach the controller.
type SiteAPI struct {
	Listen      string   `toml:"listen"`      // HOST:PORT
	TLS         string   `toml:"tls"`         // off, site, files or acme
	Certificate string   `toml:"certificate"` // PEM file, for tls = "files"
	Key         string   `toml:"key"`
	ACME        SiteACME `toml:"acme"`       // for tls = "acme"
	Insecure    bool     `toml:"insecure"`   // plain HTTP on more than the loopback
	MaxUpload   Bytes    `toml:"max_upload"` // of an image; 0: no limit
}

// SiteACME is where the API's certificate comes from.
type SiteACME struct {
	Domains   []string `toml:"domains"`   // DNS names
	Directory string   `toml:"directory"` // URL; empty: Let's Encrypt
	Email     string   `toml:"email"`
	Roots     string   `toml:"roots"` // PEM file with the server's own authority; empty: the system's
}

// SiteOutside is the site's one port for its agents and for other sites.
type SiteOutside struct {
	Listen    string `toml:"listen"`    // HOST:PORT
	Advertise string `toml:"advertise"` // HOST:PORT; empty: peers cannot dial this site, it dials them
}

// SiteLocation is where the site is on the globe, for maps.
type SiteLocation struct {
	Latitude  *float64 `toml:"latitude"`  // degrees, north is positive; nil: not told
	Longitude *float64 `toml:"longitude"` // degrees, east is positive; nil: not told
	Place     string   `toml:"place"`     // what people call it
}

// Where is where the site is; nil: that is not told.
func (l SiteLocation) Where() *api.Location {
	if l.Latitude == nil || l.Longitude == nil {
		return nil
	}
	return &api.Location{Latitude: *l.Latitude, Longitude: *l.Longitude, Place: l.Place}
}

func (l SiteLocation) check(wrong func(field, format string, args ...any)) {
	at := l.Where()
	if at == nil {
		if l != (SiteLocation{}) {
			wrong("location", "needs both latitude and longitude, in degrees")
		}
		return
	}
	if fault := at.Fault(); fault != nil {
		wrong("location."+fault.Field, "%s", strings.TrimPrefix(fault.Message, fault.Field+": "))
	}
}

// SiteNetwork is what the site's networks have in common.
type SiteNetwork struct {
	Pref64      netip.Prefix   `toml:"pref64"`       // RFC 6052; the same at all sites
	AnycastVTEP netip.Addr     `toml:"anycast_vtep"` // of the site's gateways; invalid: no gateways
	MTU         int            `toml:"mtu"`          // bytes, of new networks
	Underlay    []netip.Prefix `toml:"underlay"`     // the hosts' VTEPs are in these; empty: anywhere outside of the pools
	Reserved    []netip.Prefix `toml:"reserved"`     // no network and no service address may touch these
}

// SitePool is a part of the address plan: cloud.Pool.
type SitePool struct {
	Use      cloud.PoolUse  `toml:"use"` // networks or addresses
	Prefixes []netip.Prefix `toml:"prefixes"`
	Except   []netip.Prefix `toml:"except"`
	Owners   []string       `toml:"owners"` // not given: all of them
	Peers    []string       `toml:"peers"`
}

// SiteLending has the defaults of new offers.
type SiteLending struct {
	Lease Duration `toml:"lease"`
}

// SiteVolumes is where the controller keeps images.
type SiteVolumes struct {
	Dir     string `toml:"dir"`     // empty: DataDir/images
	Reserve Bytes  `toml:"reserve"` // of the disk, that images leave free
	// KeepImages is how long the content of an image stays that was deleted, or that no guest needs any more.
	KeepImages Duration       `toml:"keep_images"`
	FetchFrom  []netip.Prefix `toml:"fetch_from"` // addresses of no global reach that users' URLs may lead to all the same
}

// SiteAudit is how much the audit log keeps.
type SiteAudit struct {
	MaxSize Bytes    `toml:"max_size"` // of all its files
	Keep    Duration `toml:"keep"`     // older entries are removed
}

// Log is what is logged, to standard error.
type Log struct {
	Level  string `toml:"level"`  // debug, info, warn or error
	Format string `toml:"format"` // text or json
}

// Logger logs to w as it says; at level info where the level is not one.
func (l Log) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// MetricsOptions says whether GET /metrics is served.
type MetricsOptions struct {
	Enabled bool `toml:"enabled"`
	VMs     int  `toml:"vms"` // a controller's: that have series, at most; 0: none
}

// DefaultSite is a Site with every default.
func DefaultSite() *Site {
	return &Site{
		API:     SiteAPI{Listen: "[::1]:7646", TLS: "off"},
		Outside: SiteOutside{Listen: "[::]:7647"},
		Network: SiteNetwork{MTU: 1430},
		Lending: SiteLending{Lease: Duration{time.Hour}},
		Volumes: SiteVolumes{Reserve: 1 << 30, KeepImages: Duration{24 * time.Hour}},
		Audit:   SiteAudit{MaxSize: 64 << 20, Keep: Duration{90 * 24 * time.Hour}},
		Log:     Log{Level: "info", Format: "text"},
		Metrics: MetricsOptions{Enabled: true, VMs: 2000},
	}
}

// LoadSite reads a controller's configuration.
func LoadSite(path string) (*Site, error) {
	s := DefaultSite()
	if err := Load(path, s); err != nil {
		return nil, err
	}
	if s.Volumes.Dir == "" {
		s.Volumes.Dir = s.DataDir + "/images"
	}
	for name, p := range s.Pool {
		if p.Owners == nil {
			p.Owners = []string{"*"}
			s.Pool[name] = p
		}
	}
	return s, nil
}

// Check is Checker's.
func (s *Site) Check(wrong func(field, format string, args ...any)) {
	checkLabel(wrong, "site", s.Site)
	checkPath(wrong, "data_dir", s.DataDir)
	host := checkHostPort(wrong, "api.listen", s.API.Listen)
	switch s.API.TLS {
	case "off":
		if !s.API.Insecure && host != "" && !loopback(host) {
			wrong("api.listen", `%q is more than the loopback: set api.tls, or say api.insecure = true to send tokens in the clear`, s.API.Listen)
		}
	case "site", "files", "acme":
		if s.API.Insecure {
			wrong("api.insecure", "contradicts api.tls = %q", s.API.TLS)
		}
	default:
		wrong("api.tls", `is %q, must be "off", "site", "files" or "acme"`, s.API.TLS)
	}
	for _, f := range []struct{ field, value string }{{"api.certificate", s.API.Certificate}, {"api.key", s.API.Key}} {
		switch {
		case s.API.TLS == "files":
			checkPath(wrong, f.field, f.value)
		case f.value != "":
			wrong(f.field, `is for api.tls = "files" only`)
		}
	}
	s.API.checkACME(wrong)
	checkHostPort(wrong, "outside.listen", s.Outside.Listen)
	if a := s.Outside.Advertise; a != "" {
		if h := checkHostPort(wrong, "outside.advertise", a); h != "" {
			if ip, err := netip.ParseAddr(h); err == nil && ip.IsUnspecified() {
				wrong("outside.advertise", "%q is no address that another site could dial", a)
			}
		}
	}
	if p := s.Network.Pref64; p.IsValid() {
		// RFC 6052 §2.2 has these lengths.
		if !p.Addr().Is6() || p.Addr().Is4In6() || !slices.Contains([]int{32, 40, 48, 56, 64, 96}, p.Bits()) {
			wrong("network.pref64", "%s is no IPv6 prefix of length 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2)", p)
		} else if p != p.Masked() {
			wrong("network.pref64", "%s has bits set after its length; did you mean %s?", p, p.Masked())
		} else if b := p.Addr().As16(); b[8] != 0 {
			wrong("network.pref64", "%s has bits 64 to 71 set, which must be zero (RFC 6052 §2.2)", p)
		}
	}
	if a := s.Network.AnycastVTEP; a.IsValid() {
		checkVTEP(wrong, "network.anycast_vtep", a)
	}
	if m := s.Network.MTU; m < 1280 || m > 9000 {
		wrong("network.mtu", "is %d, must be 1280 (RFC 8200 §5) to 9000", m)
	}
	checkPrefixes(wrong, "network.underlay", s.Network.Underlay)
	checkPrefixes(wrong, "network.reserved", s.Network.Reserved)
	s.checkPools(wrong)
	s.Location.check(wrong)
	checkPrefixes(wrong, "volumes.fetch_from", s.Volumes.FetchFrom)
	if l := s.Lending.Lease.Duration; l < 10*time.Second || l > 30*24*time.Hour {
		wrong("lending.lease", "is %v, must be 10s to 720h", l)
	}
	if s.Volumes.Dir != "" {
		checkPath(wrong, "volumes.dir", s.Volumes.Dir)
	}
	checkKeep(wrong, "volumes.keep_images", s.Volumes.KeepImages)
	if n := s.Audit.MaxSize; n < 1<<20 || n > 16<<30 {
		wrong("audit.max_size", "is %v, must be 1MiB to 16GiB", n)
	}
	if k := s.Audit.Keep.Duration; k < 24*time.Hour || k > 10*365*24*time.Hour {
		wrong("audit.keep", "is %v, must be 24h to 87600h", k)
	}
	if n := s.Metrics.VMs; n < 0 || n > maxMetricsVMs {
		wrong("metrics.vms", "is %d, must be 0 to %d", n, maxMetricsVMs)
	}
	s.Log.check(wrong)
}

// checkKeep judges how long images stay that nothing needs.
func checkKeep(wrong func(field, format string, args ...any), field string, d Duration) {
	if d.Duration < time.Second || d.Duration > 10*365*24*time.Hour {
		wrong(field, "is %v, must be 1s to 87600h", d.Duration)
	}
}

// maxMetricsVMs bounds the series of /metrics: eight for each VM.
const maxMetricsVMs = 50000

func (l Log) check(wrong func(field, format string, args ...any)) {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, l.Level) {
		wrong("log.level", `is %q, must be "debug", "info", "warn" or "error"`, l.Level)
	}
	if l.Format != "text" && l.Format != "json" {
		wrong("log.format", `is %q, must be "text" or "json"`, l.Format)
	}
}

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// checkLabel wants a DNS label of at most 40 characters in lower case (RFC 1123 §2.1), as api.Meta.Name.
func checkLabel(wrong func(string, string, ...any), field, value string) {
	switch {
	case value == "":
		wrong(field, "must be given")
	case !label.MatchString(value):
		wrong(field, "%q is no name: a to z, 0 to 9 and - in between, at most 40 characters", value)
	}
}

func checkPath(wrong func(string, string, ...any), field, value string) {
	switch {
	case value == "":
		wrong(field, "must be given")
	case !strings.HasPrefix(value, "/"):
		wrong(field, "%q is no absolute path", value)
	}
}

// checkHostPort gives the host of HOST:PORT, or nothing when it is none.
func checkHostPort(wrong func(string, string, ...any), field, value string) string {
	host, port, err := net.SplitHostPort(value)
	if err != nil || host == "" {
		wrong(field, "%q is not of the form HOST:PORT or [IPV6]:PORT", value)
		return ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		wrong(field, "%q has no port from 1 to 65535", value)
		return ""
	}
	return host
}

func checkVTEP(wrong func(string, string, ...any), field string, a netip.Addr) {
	if !a.Is6() || a.Is4In6() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.Zone() != "" {
		wrong(field, "%s is no IPv6 unicast address of the underlay", a)
	}
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// checkACME judges where the certificate comes from, or that nothing is said of it.
func (a *SiteAPI) checkACME(wrong func(field, format string, args ...any)) {
	c := a.ACME
	if a.TLS != "acme" {
		if len(c.Domains) > 0 || c.Directory != "" || c.Email != "" || c.Roots != "" {
			wrong("api.acme", `is for api.tls = "acme" only`)
		}
		return
	}
	if len(c.Domains) == 0 {
		wrong("api.acme.domains", "must be given")
	}
	for i, d := range c.Domains {
		field := fmt.Sprintf("api.acme.domains[%d]", i)
		labels := strings.Split(d, ".")
		for _, l := range labels {
			checkLabel(wrong, field, l)
		}
		if len(labels) < 2 {
			wrong(field, "%q is no DNS name that others know", d)
		}
	}
	if u, err := url.Parse(c.Directory); c.Directory != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		wrong("api.acme.directory", "%q is no https:// URL", c.Directory)
	}
	if c.Roots != "" {
		checkPath(wrong, "api.acme.roots", c.Roots)
	}
}
