package studio

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"widecloud/internal/config"
	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/pattern"
	"widecloud/internal/sentry/scale"
	"widecloud/internal/sentry/source"
	"widecloud/internal/sentry/still"
)

// Config is the configuration of sentryd. examples/sentryd.toml explains every field.
type Config struct {
	Send     Send                `toml:"send"`
	Channel  map[string]Channel  `toml:"channel"`
	Receiver map[string]Receiver `toml:"receiver"`
	Admin    Admin               `toml:"admin"`
	Log      config.Log          `toml:"log"`
}

// Send is what holds for all receivers.
type Send struct {
	Loss     float64 `toml:"loss"`     // percent of datagrams
	Datagram int     `toml:"datagram"` // bytes
}

// Channel is one video.
type Channel struct {
	Source    string          `toml:"source"`    // pattern, pipe, http, directory or ffmpeg
	Input     string          `toml:"input"`     // path, URL or ffmpeg's input
	Arguments []string        `toml:"arguments"` // of ffmpeg, before its input
	Order     string          `toml:"order"`     // of a directory: names or newest
	Rate      float64         `toml:"rate"`      // stills a second
	Silence   config.Duration `toml:"silence"`   // after which the source is begun again
	Sizes     []Size          `toml:"sizes"`     // the largest first
}

// Size is what a still must fit into.
type Size struct {
	Width  int          `toml:"width"`
	Height int          `toml:"height"`
	Bytes  config.Bytes `toml:"bytes"`
}

// Receiver is where stills are sent.
type Receiver struct {
	Address    string `toml:"address"`   // HOST:PORT
	Transport  string `toml:"transport"` // udp, tcp or tls
	KeyFile    string `toml:"key_file"`
	Rate       Rate   `toml:"rate"`
	CA         string `toml:"ca"`          // of tls: PEM file; empty: the system's
	ServerName string `toml:"server_name"` // of tls: the certificate's name; empty: address's
	Interface  string `toml:"interface"`   // of multicast
	Hops       int    `toml:"hops"`        // of multicast; 0: 1
}

// Admin is what operators get.
type Admin struct {
	Listen string `toml:"listen"`
}

// Rate is in bits a second: "500k", "20M", "1G".
type Rate int64

// UnmarshalText reads a rate.
func (r *Rate) UnmarshalText(b []byte) error {
	number, factor := string(b), int64(1)
	for unit, f := range map[string]int64{"k": 1e3, "M": 1e6, "G": 1e9} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, factor = n, f
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > cast.MaxRate/factor {
		return fmt.Errorf(`is not a number of bits a second such as "500k", "20M" or "1G"`)
	}
	*r = Rate(n * factor)
	return nil
}

// The sources.
const (
	sourcePattern   = "pattern"
	sourcePipe      = "pipe"
	sourceHTTP      = "http"
	sourceDirectory = "directory"
	sourceFFmpeg    = "ffmpeg"
)

// Default is a Config with every default, but those of channels and receivers.
func Default() *Config {
	return &Config{
		Send:  Send{Loss: 5, Datagram: cast.PlainDatagram},
		Admin: Admin{Listen: "localhost:9647"},
		Log:   config.Log{Level: "info", Format: "text"},
	}
}

// defaults fills in what a channel has not been given.
func (c Channel) defaults() Channel {
	if c.Rate == 0 {
		c.Rate = 1
	}
	if c.Order == "" {
		c.Order = "names"
	}
	if c.Silence.Duration == 0 {
		c.Silence.Duration = max(15*time.Second, 4*source.Every(c.Rate))
	}
	if c.Sizes == nil {
		c.Sizes = []Size{{1280, 720, 100 << 10}, {640, 360, 30 << 10}, {320, 180, 10 << 10}}
	}
	return c
}

// defaults fills in what a receiver has not been given.
func (r Receiver) defaults() Receiver {
	if r.Transport == "" {
		r.Transport = string(cast.UDP)
	}
	if r.Rate == 0 {
		r.Rate = 20_000_000
	}
	return r
}

// Load reads a configuration. The error is of type config.Problems, or says that the file cannot be read.
func Load(path string) (*Config, error) {
	c := Default()
	if err := config.Load(path, c); err != nil {
		return nil, err
	}
	for name, ch := range c.Channel {
		c.Channel[name] = ch.defaults()
	}
	for name, r := range c.Receiver {
		c.Receiver[name] = r.defaults()
	}
	return c, nil
}

// Check is config.Checker's.
func (c *Config) Check(wrong func(field, format string, args ...any)) {
	if c.Send.Loss < 0 || c.Send.Loss > 40 {
		wrong("send.loss", "is %g, must be between 0 and 40 percent", c.Send.Loss)
	}
	if c.Send.Datagram < cast.MinDatagram || c.Send.Datagram > cast.MaxDatagram {
		wrong("send.datagram", "is %d, must be between %d and %d bytes", c.Send.Datagram, cast.MinDatagram, cast.MaxDatagram)
	}
	if len(c.Channel) == 0 {
		wrong("channel", "there must be at least one: [channel.NAME]")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Channel)) {
		at := "channel." + name
		if err := still.CheckChannel(name); err != nil {
			wrong(at, "%v", err)
		}
		c.Channel[name].defaults().check(func(field, format string, args ...any) { wrong(at+"."+field, format, args...) })
	}
	if len(c.Receiver) == 0 {
		wrong("receiver", "there must be at least one: [receiver.NAME]")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Receiver)) {
		at := "receiver." + name
		c.Receiver[name].defaults().check(func(field, format string, args ...any) { wrong(at+"."+field, format, args...) })
	}
	if c.Admin.Listen != "" {
		if _, port, err := net.SplitHostPort(c.Admin.Listen); err != nil || port == "" {
			wrong("admin.listen", "%q is not ADDRESS:PORT", c.Admin.Listen)
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		wrong("log.level", `is %q, must be "debug", "info", "warn" or "error"`, c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		wrong("log.format", `is %q, must be "text" or "json"`, c.Log.Format)
	}
}

func (c Channel) check(wrong func(field, format string, args ...any)) {
	path := func() {
		if !strings.HasPrefix(c.Input, "/") {
			wrong("input", "%q does not begin with /", c.Input)
		}
	}
	switch c.Source {
	case sourcePattern:
		if c.Input != "" {
			wrong("input", `is not for source = "pattern"`)
		}
	case sourcePipe:
		if c.Input != "-" {
			path()
		}
	case sourceDirectory:
		path()
	case sourceHTTP:
		// The URL may hold a password: it is not shown.
		if u, err := url.Parse(c.Input); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			wrong("input", "is not an http:// or https:// URL")
		}
	case sourceFFmpeg:
		if err := (source.FFmpeg{Input: c.Input}).Check(); err != nil {
			wrong("input", "%v", err)
		}
	default:
		wrong("source", `is %q, must be "pattern", "pipe", "http", "directory" or "ffmpeg"`, c.Source)
	}
	if len(c.Arguments) > 0 && c.Source != sourceFFmpeg {
		wrong("arguments", `are for source = "ffmpeg" only`)
	}
	if c.Order != "names" && c.Order != "newest" {
		wrong("order", `is %q, must be "names" or "newest"`, c.Order)
	}
	if c.Rate < 0.2 || c.Rate > still.MaxRate {
		wrong("rate", "is %g, must be between 0.2 and %d stills a second", c.Rate, still.MaxRate)
	}
	if d := c.Silence.Duration; d < time.Second || d > time.Hour {
		wrong("silence", "is %v, must be between 1s and 1h", d)
	}
	if len(c.Sizes) < 1 || len(c.Sizes) > still.Sizes {
		wrong("sizes", "there are %d, must be 1 to %d", len(c.Sizes), still.Sizes)
	}
	for i, s := range c.Sizes {
		if err := s.spec().Check(); err != nil {
			wrong("sizes", "size %d: %v", i, err)
		}
		if i > 0 && (s.Width > c.Sizes[i-1].Width || s.Height > c.Sizes[i-1].Height) {
			wrong("sizes", "size %d is larger than size %d; the largest comes first", i, i-1)
		}
		if c.Source == sourcePattern && (s.Width < pattern.MinWidth || s.Height < pattern.MinHeight) {
			wrong("sizes", "size %d: a test pattern is not readable below %dx%d", i, pattern.MinWidth, pattern.MinHeight)
		}
	}
}

func (s Size) spec() scale.Size {
	return scale.Size{Width: s.Width, Height: s.Height, Bytes: int(s.Bytes)}
}

func (r Receiver) check(wrong func(field, format string, args ...any)) {
	host, port, err := net.SplitHostPort(r.Address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || perr != nil || n == 0 {
		wrong("address", "%q is not HOST:PORT or [IPV6]:PORT", r.Address)
	}
	if t := cast.Transport(r.Transport); t != cast.UDP && t != cast.TCP && t != cast.TLS {
		wrong("transport", `is %q, must be "udp", "tcp" or "tls"`, r.Transport)
	}
	if !strings.HasPrefix(r.KeyFile, "/") {
		wrong("key_file", "%q does not begin with /", r.KeyFile)
	}
	if r.Rate < cast.MinRate || r.Rate > cast.MaxRate {
		wrong("rate", `is %d bits a second, must be between "10k" and "10G"`, r.Rate)
	}
	if (r.CA != "" || r.ServerName != "") && r.Transport != string(cast.TLS) {
		wrong("transport", `must be "tls" for ca and server_name`)
	}
	if r.Hops < 0 || r.Hops > 255 {
		wrong("hops", "is %d, must be between 0 and 255", r.Hops)
	}
	group, err := netip.ParseAddr(host)
	if (r.Interface != "" || r.Hops != 0) && (err != nil || !group.IsMulticast() || r.Transport != string(cast.UDP)) {
		wrong("address", "%q is not a multicast group, which interface and hops are for", r.Address)
	}
}
