package studio_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/config"
	"widecloud/internal/sentry/studio"
)

// TestReference holds the example to the code: it is read without an error, names every field, and what is commented out
// is the default.
func TestReference(t *testing.T) {
	path := filepath.Join("..", "..", "..", "examples", "sentryd.toml")
	want, err := studio.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	full := regexp.MustCompile(`(?m)^# (\w+ = )`).ReplaceAllString(string(text), "$1")
	whole := filepath.Join(t.TempDir(), "sentryd.toml")
	if err := os.WriteFile(whole, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := studio.Load(whole)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what is commented out is not the default (-file +uncommented):\n%s", d)
	}
	table, named := "", map[string]bool{}
	for _, line := range strings.Split(full, "\n") {
		if m := regexp.MustCompile(`^\[(\w+)(\..+)?\]$`).FindStringSubmatch(line); m != nil {
			table = m[1] + "."
		} else if m := regexp.MustCompile(`^(\w+) = `).FindStringSubmatch(line); m != nil {
			named[table+m[1]] = true
		}
	}
	all := 0
	for i := range reflect.TypeFor[studio.Config]().NumField() {
		f := reflect.TypeFor[studio.Config]().Field(i)
		inner := f.Type
		if inner.Kind() == reflect.Map {
			inner = inner.Elem()
		}
		for j := range inner.NumField() {
			all++
			if name := f.Tag.Get("toml") + "." + inner.Field(j).Tag.Get("toml"); !named[name] {
				t.Errorf("%s is not explained", name)
			}
		}
	}
	if all != len(named) {
		t.Errorf("%d fields are named, there are %d", len(named), all)
	}
}

func TestProblems(t *testing.T) {
	const good = "[channel.main]\nsource = 'pattern'\n[receiver.a]\naddress = '[::1]:6460'\nkey_file = '/k'\n"
	channel := func(s string) string { return strings.Replace(good, "source = 'pattern'", s, 1) }
	receiver := func(s string) string { return good + s }
	for _, c := range []struct{ name, toml, want string }{
		{"empty", "", "s.toml: channel: there must be at least one: [channel.NAME]\ns.toml: receiver: there must be at least one: [receiver.NAME]"},
		{"unknown", good + "[sent]\n", "s.toml:6: sent: unknown table"},
		{"no source", channel("source = 'tape'"), `s.toml:2: channel.main.source: is "tape", must be "pattern", "pipe", "http", "directory" or "ffmpeg"`},
		{"channel's name", strings.Replace(good, "channel.main", "channel.Main", 1),
			`s.toml:1: channel.Main: still out of bounds: channel: "Main" has another character than a-z, 0-9 and, not at its start, -`},
		{"pattern's input", channel("source = 'pattern'\ninput = '/x'"), `s.toml:3: channel.main.input: is not for source = "pattern"`},
		{"relative", channel("source = 'directory'\ninput = 'x'"), `s.toml:3: channel.main.input: "x" does not begin with /`},
		{"password", channel("source = 'http'\ninput = 'rtsp://u:secret@h/'"), `s.toml:3: channel.main.input: is not an http:// or https:// URL`},
		{"option", channel("source = 'ffmpeg'\ninput = '-y'"), `s.toml:3: channel.main.input: "-y" cannot be an input of ffmpeg`},
		{"arguments", channel("source = 'pipe'\ninput = '-'\narguments = ['-re']"), `s.toml:4: channel.main.arguments: are for source = "ffmpeg" only`},
		{"order", channel("source = 'directory'\ninput = '/x'\norder = 'random'"), `s.toml:4: channel.main.order: is "random", must be "names" or "newest"`},
		{"rate", channel("source = 'pattern'\nrate = 30"), "s.toml:3: channel.main.rate: is 30, must be between 0.2 and 10 stills a second"},
		{"silence", channel("source = 'pattern'\nsilence = '1ms'"), "s.toml:3: channel.main.silence: is 1ms, must be between 1s and 1h"},
		{"no sizes", channel("source = 'pattern'\nsizes = []"), "s.toml:3: channel.main.sizes: there are 0, must be 1 to 4"},
		{"sizes", channel("source = 'pipe'\ninput = '-'\nsizes = [{ width = 320, height = 180, bytes = '1KiB' }, { width = 640, height = 180, bytes = '9KiB' }]"),
			"s.toml:4: channel.main.sizes: size 0: bytes: 1024 is not between 2000 and 1048576\n" +
				"s.toml:4: channel.main.sizes: size 1 is larger than size 0; the largest comes first"},
		{"small pattern", channel("source = 'pattern'\nsizes = [{ width = 64, height = 36, bytes = '9KiB' }]"),
			"s.toml:3: channel.main.sizes: size 0: a test pattern is not readable below 128x72"},
		{"address", strings.Replace(good, "[::1]:6460", "::1", 1), `s.toml:4: receiver.a.address: "::1" is not HOST:PORT or [IPV6]:PORT`},
		{"key", strings.Replace(good, "/k", "k", 1), `s.toml:5: receiver.a.key_file: "k" does not begin with /`},
		{"transport", receiver("transport = 'sctp'"), `s.toml:6: receiver.a.transport: is "sctp", must be "udp", "tcp" or "tls"`},
		{"bits", receiver("rate = '1Kbit'"), `s.toml:6: receiver.a.rate: is not a number of bits a second such as "500k", "20M" or "1G"`},
		{"slow", receiver("rate = '1k'"), `s.toml:6: receiver.a.rate: is 1000 bits a second, must be between "10k" and "10G"`},
		{"ca", receiver("transport = 'tcp'\nca = '/ca'"), `s.toml:6: receiver.a.transport: must be "tls" for ca and server_name`},
		{"hops", receiver("hops = 3"), `s.toml:4: receiver.a.address: "[::1]:6460" is not a multicast group, which interface and hops are for`},
		{"send", good + "[send]\nloss = 50\ndatagram = 100\n",
			"s.toml:7: send.loss: is 50, must be between 0 and 40 percent\ns.toml:8: send.datagram: is 100, must be between 576 and 65000 bytes"},
		{"admin and log", good + "[admin]\nlisten = 'x'\n[log]\nlevel = 'loud'\nformat = 'xml'\n",
			"s.toml:7: admin.listen: \"x\" is not ADDRESS:PORT\ns.toml:9: log.level: is \"loud\", must be \"debug\", \"info\", \"warn\" or \"error\"\n" +
				"s.toml:10: log.format: is \"xml\", must be \"text\" or \"json\""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := config.Decode("s.toml", []byte(c.toml), studio.Default())
			var ps config.Problems
			if !errors.As(err, &ps) {
				t.Fatalf("got %v, want Problems", err)
			}
			if d := cmp.Diff(c.want, err.Error()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Error("a password is shown")
			}
		})
	}
	if err := config.Decode("s.toml", []byte(good), studio.Default()); err != nil {
		t.Error(err)
	}
}
