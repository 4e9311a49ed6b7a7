package config_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/api"
	"widecloud/internal/config"
)

const site = `site = "tokyo"
data_dir = "/var/lib/widecloud"
`

func TestSiteProblems(t *testing.T) {
	tests := []struct{ name, toml, want string }{
		{"unknown fields, all at once", site + "[api]\nlistn = 1\n[federation]\nx = 1\n[log]\nlevle = 'x'\n",
			"s.toml:4: api.listn: unknown field\ns.toml:5: federation: unknown table\ns.toml:8: log.levle: unknown field"},
		{"of every sort at once", "site = 5\n[network]\nmtu = 'big'\npref64 = '2001:db8::/95'\n[lending]\nlease = '5 parsecs'\nx = 1\n",
			"s.toml:1: site: is an integer, must be a string\n" +
				"s.toml:3: network.mtu: is a string, must be a whole number\n" +
				"s.toml:4: network.pref64: 2001:db8::/95 is no IPv6 prefix of length 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2)\n" +
				"s.toml:6: lending.lease: is no length of time such as \"300ms\", \"5s\" or \"1h30m\"\n" +
				"s.toml:7: lending.x: unknown field\n" +
				"s.toml: data_dir: must be given"},
		{"no TOML", site + "[api\n", `s.toml:3: expected ']' to close table name`},
		{"twice", site + "site = 'a'\n", "s.toml:3: site: key site is already defined"},
		{"empty", "", "s.toml: site: must be given\ns.toml: data_dir: must be given"},
		{"bad name", "site = 'To kyo'\ndata_dir = 'x'\n",
			"s.toml:1: site: \"To kyo\" is no name: a to z, 0 to 9 and - in between, at most 40 characters\ns.toml:2: data_dir: \"x\" is no absolute path"},
		{"plain HTTP in the open", site + "[api]\nlisten = '[::]:7646'\n",
			`s.toml:4: api.listen: "[::]:7646" is more than the loopback: set api.tls, or say api.insecure = true to send tokens in the clear`},
		{"no port", site + "api.listen = '::1'\noutside.listen = '[::]:0'\noutside.advertise = '[::]:7647'\n",
			"s.toml:3: api.listen: \"::1\" is not of the form HOST:PORT or [IPV6]:PORT\n" +
				"s.toml:4: outside.listen: \"[::]:0\" has no port from 1 to 65535\n" +
				"s.toml:5: outside.advertise: \"[::]:7647\" is no address that another site could dial"},
		{"files without files", site + "api = { tls = 'files', listen = '[::]:443' }\n",
			"s.toml: api.certificate: must be given\ns.toml: api.key: must be given"},
		{"files without tls", site + "[api]\nkey = '/k'\n", `s.toml:4: api.key: is for api.tls = "files" only`},
		{"acme without names", site + "api = { tls = 'acme', listen = '[::]:443' }\n", "s.toml: api.acme.domains: must be given"},
		{"acme", site + "api = { tls = 'acme', listen = '[::]:443', acme = { domains = ['cloud', 'a..b'], directory = 'http://x/', roots = 'x' } }\n",
			"s.toml: api.acme.domains[0]: \"cloud\" is no DNS name that others know\n" +
				"s.toml: api.acme.domains[1]: must be given\n" +
				"s.toml: api.acme.directory: \"http://x/\" is no https:// URL\n" +
				"s.toml: api.acme.roots: \"x\" is no absolute path"},
		{"acme without tls", site + "[api.acme]\nemail = 'a@example.org'\n", `s.toml:3: api.acme: is for api.tls = "acme" only`},
		{"contradiction", site + "[api]\ntls = 'site'\ninsecure = true\n", `s.toml:5: api.insecure: contradicts api.tls = "site"`},
		{"addresses", site + "[network]\npref64 = '2001:db8::1/96'\nanycast_vtep = '192.0.2.1'\nmtu = 1279\n",
			"s.toml:4: network.pref64: 2001:db8::1/96 has bits set after its length; did you mean 2001:db8::/96?\n" +
				"s.toml:5: network.anycast_vtep: 192.0.2.1 is no IPv6 unicast address of the underlay\n" +
				"s.toml:6: network.mtu: is 1279, must be 1280 (RFC 8200 §5) to 9000"},
		{"reserved", site + "[network]\nreserved = ['10.0.0.1/8']\n", "s.toml:4: network.reserved: 10.0.0.1/8 has bits set after its length; did you mean 10.0.0.0/8?"},
		{"pools", site + "outside.advertise = '[2001:db8:1::7]:7647'\n[pool.a]\nuse = 'things'\n[pool.b]\nuse = 'networks'\nprefixes = ['2001:db8:b::/48', '2001:db8:1::/65', '10.0.0.0/8', '5f00::/16']\nexcept = ['2001:db8:c::/64']\n" +
			"[pool.c]\nuse = 'addresses'\nprefixes = ['2001:db8:b:1::/64', '2001:db8:1::/64', '127.0.0.0/8']\nowners = ['A']\npeers = ['*', 'b c']\n",
			"s.toml:5: pool.a.use: is \"things\", must be \"networks\" or \"addresses\"\n" +
				"s.toml:8: pool.b.prefixes: 2001:db8:1::/65 is not an IPv6 prefix of a /64 or larger: networks are /64s\n" +
				"s.toml:8: pool.b.prefixes: 2001:db8:1::/65 overlaps 2001:db8:1::7/128, which is reserved: the controller's address (outside.advertise)\n" +
				"s.toml:8: pool.b.prefixes: 10.0.0.0/8 is not an IPv6 prefix of a /64 or larger: networks are /64s\n" +
				"s.toml:8: pool.b.prefixes: 5f00::/16 is neither global unicast (2000::/3) nor unique local (fd00::/8)\n" +
				"s.toml:9: pool.b.except: 2001:db8:c::/64 is not inside of the pool\n" +
				"s.toml:12: pool.c.prefixes: 2001:db8:b:1::/64 overlaps 2001:db8:b::/48 of pool b\n" +
				"s.toml:12: pool.c.prefixes: 2001:db8:1::/64 overlaps 2001:db8:1::/65 of pool b\n" +
				"s.toml:12: pool.c.prefixes: 2001:db8:1::/64 overlaps 2001:db8:1::7/128, which is reserved: the controller's address (outside.advertise)\n" +
				"s.toml:12: pool.c.prefixes: 127.0.0.0/8 has no unicast addresses that can be reached\n" +
				"s.toml:13: pool.c.owners: \"A\" is not a name, nor *\n" +
				"s.toml:14: pool.c.peers: \"b c\" is not a name, nor *\n" +
				"s.toml: pool.a.prefixes: must name at least one prefix"},
		{"log", site + "[log]\nlevel = 'loud'\nformat = 'xml'\n",
			"s.toml:4: log.level: is \"loud\", must be \"debug\", \"info\", \"warn\" or \"error\"\ns.toml:5: log.format: is \"xml\", must be \"text\" or \"json\""},
		{"sizes", site + "[api]\nmax_upload = '8 flops'\n", `s.toml:4: api.max_upload: is no amount of bytes such as "512", "64KiB" or "20GiB"`},
		{"lease", site + "lending.lease = '1s'\n", "s.toml:3: lending.lease: is 1s, must be 10s to 720h"},
		{"a table for a value", site + "[volumes.dir]\n", "s.toml:3: volumes.dir: is a table, must be a string"},
		{"a value for a table", site + "log = 'x'\n", "s.toml:3: log: is a string, must be a table"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := config.Decode("s.toml", []byte(tt.toml), config.DefaultSite())
			var ps config.Problems
			if !errors.As(err, &ps) {
				t.Fatalf("got %v, want Problems", err)
			}
			if d := cmp.Diff(tt.want, err.Error()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestAgentProblems(t *testing.T) {
	const agent = "site = 'tokyo'\nhost = 'h1'\ncontroller = '[2001:db8::1]:7647'\nvtep = '2001:db8::2'\n"
	tests := []struct{ name, toml, want string }{
		{"empty", "", "a.toml: site: must be given\na.toml: host: must be given\na.toml: controller: \"\" is not of the form HOST:PORT or [IPV6]:PORT\n" +
			"a.toml: vtep: must be given: the host's IPv6 address in the underlay"},
		{"roles", agent + "roles = ['gateway', 'router', 'gateway']\n", "a.toml:5: roles: \"router\" is neither \"hypervisor\" nor \"gateway\"\na.toml:5: roles: \"gateway\" is there twice"},
		{"no roles", agent + "roles = []\n", "a.toml:5: roles: must name at least one of \"hypervisor\" and \"gateway\""},
		{"vtep", strings.Replace(agent, "2001:db8::2", "fe80::1", 1), "a.toml:4: vtep: fe80::1 is no IPv6 unicast address of the underlay"},
		{"vtep of another family", strings.Replace(agent, "2001:db8::2", "x", 1), `a.toml:4: vtep: ParseAddr("x"): unable to parse IP`},
		{"libvirt", agent + "[libvirt]\nsocket = 'x'\naccel = 'xen'\n",
			"a.toml:6: libvirt.socket: \"x\" is no absolute path\na.toml:7: libvirt.accel: is \"xen\", must be \"auto\", \"kvm\" or \"tcg\""},
		{"capacity", agent + "[capacity]\ncpus = -1\n", "a.toml:6: capacity.cpus: is -1, must not be negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := config.Decode("a.toml", []byte(tt.toml), config.DefaultAgent())
			if err == nil {
				t.Fatal("no error")
			}
			if d := cmp.Diff(tt.want, err.Error()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestValues(t *testing.T) {
	s := config.DefaultSite()
	err := config.Decode("s.toml", []byte(site+`
lending.lease = "1h30m"
[api]
listen = "[::]:7646"
tls = "site"
max_upload = "20 GiB"
[network]
pref64 = "2001:db8:64::/96"
`), s)
	if err != nil {
		t.Fatal(err)
	}
	if s.Lending.Lease.Duration != 90*time.Minute || s.API.MaxUpload != 20<<30 || s.Network.Pref64 != netip.MustParsePrefix("2001:db8:64::/96") {
		t.Errorf("got %+v", s)
	}
}

// TestReferences holds the example files to the code: they are read without an error, name every field, and what is
// commented out is the default.
func TestReferences(t *testing.T) {
	for _, tt := range []struct {
		file         string
		load         func(string) (any, error)
		fresh, typed any
	}{
		{"site.toml", func(p string) (any, error) { return config.LoadSite(p) }, config.DefaultSite(), config.Site{}},
		{"agent.toml", func(p string) (any, error) { return config.LoadAgent(p) }, config.DefaultAgent(), config.Agent{}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			path := filepath.Join("..", "..", "examples", tt.file)
			want, err := tt.load(path)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			full := regexp.MustCompile(`(?m)^# (\w+ = )`).ReplaceAllString(string(text), "$1")
			whole := filepath.Join(t.TempDir(), tt.file)
			if err := os.WriteFile(whole, []byte(full), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := tt.load(whole)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("what is commented out is not the default (-file +uncommented):\n%s", d)
			}
			table := ""
			named := map[string]bool{}
			for _, line := range strings.Split(full, "\n") {
				if m := regexp.MustCompile(`^\[(.+)\]$`).FindStringSubmatch(line); m != nil {
					table = regexp.MustCompile(`^pool\..+`).ReplaceAllString(m[1], "pool.*") + "."
				} else if m := regexp.MustCompile(`^(\w+) = `).FindStringSubmatch(line); m != nil {
					named[table+m[1]] = true
				}
			}
			for _, f := range fields("", reflect.TypeOf(tt.typed)) {
				if !named[f] {
					t.Errorf("%s is not explained", f)
				}
			}
		})
	}
}

// fields lists the TOML names of a struct's fields.
func fields(prefix string, t reflect.Type) (names []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name := prefix + f.Tag.Get("toml")
		if f.Type.Kind() == reflect.Map {
			names = append(names, fields(name+".*.", f.Type.Elem())...)
		} else if f.Type.Kind() == reflect.Struct && f.Type.NumField() > 0 && f.Type.Field(0).Tag.Get("toml") != "" {
			names = append(names, fields(name+".", f.Type)...)
		} else {
			names = append(names, name)
		}
	}
	return names
}

func TestAgentRoles(t *testing.T) {
	a := config.DefaultAgent()
	if !a.Has(api.RoleHypervisor) || a.Has(api.RoleGateway) {
		t.Errorf("default roles are %v", a.Roles)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(site)
	f.Add("site = 5\n[api\n")
	f.Add("a.b.c = {d = 1}\n[[x]]\n")
	f.Fuzz(func(t *testing.T, s string) {
		if err := config.Decode("f", []byte(s), config.DefaultSite()); err != nil {
			_ = err.Error()
		}
	})
}
