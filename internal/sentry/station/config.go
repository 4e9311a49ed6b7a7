package station

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"widecloud/internal/config"
	"widecloud/internal/sentry/httpd"
	"widecloud/internal/sentry/page"
	"widecloud/internal/sentry/still"
)

// Config is the configuration of sentryc. examples/sentryc.toml explains every field.
type Config struct {
	Web       Web         `toml:"web"`
	TLS       TLS         `toml:"tls"`
	Admin     Admin       `toml:"admin"`
	Keep      Keep        `toml:"keep"`
	Page      Page        `toml:"page"`
	Server    []Server    `toml:"server"`
	Receive   Receive     `toml:"receive"`
	Directory []Directory `toml:"directory"`
	Caption   []Caption   `toml:"caption"`
	Write     Write       `toml:"write"`
	Log       config.Log  `toml:"log"`
}

// Web is what viewers get.
type Web struct {
	Listen         []string        `toml:"listen"`
	MaxConnections int             `toml:"max_connections"`
	MaxPerAddress  int             `toml:"max_per_address"`
	NAT64          []string        `toml:"nat64"`
	PollWait       config.Duration `toml:"poll_wait"`
	HeadTimeout    config.Duration `toml:"head_timeout"`
	IdleTimeout    config.Duration `toml:"idle_timeout"`
	WriteTimeout   config.Duration `toml:"write_timeout"`
	Drain          config.Duration `toml:"drain"`
}

// TLS is the same over TLS.
type TLS struct {
	Listen      []string `toml:"listen"`
	Certificate string   `toml:"certificate"` // of receive.tls, too
	Key         string   `toml:"key"`
}

// Admin is what operators get.
type Admin struct {
	Listen string `toml:"listen"`
}

// Keep is how much is kept.
type Keep struct {
	Time     config.Duration `toml:"time"`
	Memory   config.Bytes    `toml:"memory"`
	Channels int             `toml:"channels"`
}

// Page is the viewers' page.
type Page struct {
	TitleEN string `toml:"title_en"`
	TitleJA string `toml:"title_ja"`
}

// Server is where a page can go.
type Server struct {
	URL    string `toml:"url"`
	Weight int    `toml:"weight"`
}

// Receive is how stills come from sentryd.
type Receive struct {
	Name      string          `toml:"name"`
	UDP       []string        `toml:"udp"`
	TCP       []string        `toml:"tcp"`
	TLS       []string        `toml:"tls"`
	Interface string          `toml:"interface"`
	Keys      []string        `toml:"keys"`
	MaxAge    config.Duration `toml:"max_age"`
}

// any tells whether stills can come from sentryd.
func (r Receive) any() bool { return len(r.UDP)+len(r.TCP)+len(r.TLS) > 0 }

// Directory is a directory that stills come from.
type Directory struct {
	Path    string `toml:"path"`
	Channel string `toml:"channel"`
	Size    int    `toml:"size"`
}

// Caption is a file that a channel's captions come from.
type Caption struct {
	File    string `toml:"file"`
	Channel string `toml:"channel"`
}

// Write is a directory that stills are written to.
type Write struct {
	Dir string `toml:"dir"`
}

// Default is a Config with every default.
func Default() *Config {
	d := func(s time.Duration) config.Duration { return config.Duration{Duration: s} }
	return &Config{
		Web: Web{Listen: []string{"[::]:8080"}, MaxConnections: 20_000, MaxPerAddress: 512, PollWait: d(25 * time.Second),
			HeadTimeout: d(10 * time.Second), IdleTimeout: d(75 * time.Second), WriteTimeout: d(20 * time.Second), Drain: d(20 * time.Second)},
		Admin:   Admin{Listen: "localhost:9646"},
		Keep:    Keep{Time: d(10 * time.Minute), Memory: 256 << 20, Channels: 16},
		Receive: Receive{MaxAge: d(time.Minute)},
		Log:     config.Log{Level: "info", Format: "text"},
	}
}

// Load reads a configuration. The error is of type config.Problems, or says that the file cannot be read.
func Load(path string) (*Config, error) {
	c := Default()
	if err := config.Load(path, c); err != nil {
		return nil, err
	}
	return c, nil
}

// Check is config.Checker's.
func (c *Config) Check(wrong func(field, format string, args ...any)) {
	if len(c.Web.Listen)+len(c.TLS.Listen) == 0 {
		wrong("web.listen", "must name an address, or tls.listen must")
	}
	addresses := func(field string, list ...string) {
		for _, a := range list {
			if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
				wrong(field, "%q is not ADDRESS:PORT", a)
			}
		}
	}
	addresses("web.listen", c.Web.Listen...)
	addresses("tls.listen", c.TLS.Listen...)
	addresses("receive.udp", c.Receive.UDP...)
	addresses("receive.tcp", c.Receive.TCP...)
	addresses("receive.tls", c.Receive.TLS...)
	if c.Admin.Listen != "" {
		addresses("admin.listen", c.Admin.Listen)
	}
	if secure := len(c.TLS.Listen)+len(c.Receive.TLS) > 0; secure != (c.TLS.Certificate != "") || secure != (c.TLS.Key != "") {
		wrong("tls.certificate", "certificate and key go with tls.listen or receive.tls: all of them or none")
	}
	for _, x := range []struct {
		field          string
		n, least, most int
	}{{"web.max_connections", c.Web.MaxConnections, 1, 10_000_000}, {"web.max_per_address", c.Web.MaxPerAddress, 1, 10_000_000}, {"keep.channels", c.Keep.Channels, 1, 1000}} {
		if x.n < x.least || x.n > x.most {
			wrong(x.field, "is %d, must be between %d and %d", x.n, x.least, x.most)
		}
	}
	for _, x := range []struct {
		field       string
		d           config.Duration
		least, most time.Duration
	}{{"web.poll_wait", c.Web.PollWait, time.Second, 35 * time.Second}, {"web.head_timeout", c.Web.HeadTimeout, time.Second, time.Hour},
		{"web.idle_timeout", c.Web.IdleTimeout, time.Second, time.Hour}, {"web.write_timeout", c.Web.WriteTimeout, time.Second, time.Hour},
		{"web.drain", c.Web.Drain, 0, time.Hour}, {"keep.time", c.Keep.Time, 12 * time.Second, 24 * time.Hour},
		{"receive.max_age", c.Receive.MaxAge, time.Second, time.Hour}} {
		if x.d.Duration < x.least || x.d.Duration > x.most {
			wrong(x.field, "is %v, must be between %v and %v", x.d, x.least, x.most)
		}
	}
	if c.Keep.Memory < 4*still.MaxBytes {
		wrong("keep.memory", "is %d bytes, must be %d or more: four of the largest stills", c.Keep.Memory, 4*still.MaxBytes)
	}
	for _, p := range c.Web.NAT64 {
		if prefix, err := netip.ParsePrefix(p); err != nil || prefix.Bits() != 96 || !prefix.Addr().Is6() || prefix.Masked() != prefix {
			wrong("web.nat64", "%q is not an IPv6 prefix of length 96", p)
		}
	}
	for _, s := range c.Server {
		if s.Weight < 1 || s.Weight > 1000 {
			wrong("server.weight", "is %d, must be between 1 and 1000", s.Weight)
		}
	}
	if err := page.CheckServers(c.servers()); err != nil {
		wrong("server.url", "%v", err)
	}
	if c.Receive.any() && len(c.Receive.Keys) == 0 {
		wrong("receive.keys", "must name a key's file for each sender")
	}
	seen := map[Directory]bool{}
	for _, d := range c.Directory {
		d.Path = checkPath(wrong, "directory.path", d.Path)
		if err := still.CheckChannel(d.Channel); err != nil {
			wrong("directory.channel", "%v", err)
		}
		if d.Size < 0 || d.Size >= still.Sizes {
			wrong("directory.size", "is %d, must be between 0 and %d", d.Size, still.Sizes-1)
		}
		if d.Path = ""; seen[d] {
			wrong("directory.channel", "%s in size %d comes from another directory already", d.Channel, d.Size)
		}
		seen[d] = true
	}
	for _, f := range c.Caption {
		checkPath(wrong, "caption.file", f.File)
		if err := still.CheckChannel(f.Channel); err != nil {
			wrong("caption.channel", "%v", err)
		}
	}
	if c.Write.Dir != "" {
		checkPath(wrong, "write.dir", c.Write.Dir)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		wrong("log.level", `is %q, must be "debug", "info", "warn" or "error"`, c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		wrong("log.format", `is %q, must be "text" or "json"`, c.Log.Format)
	}
}

func checkPath(wrong func(string, string, ...any), field, path string) string {
	if !strings.HasPrefix(path, "/") {
		wrong(field, "%q does not begin with /", path)
	}
	return path
}

// servers is the list for pages.
func (c *Config) servers() []httpd.Place {
	list := []httpd.Place{}
	for _, s := range c.Server {
		list = append(list, httpd.Place{URL: s.URL, Weight: s.Weight})
	}
	return list
}
