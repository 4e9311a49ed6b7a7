package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"widecloud/api"
	"widecloud/examples"
	"widecloud/internal/config"
)

// TestSettings: every field has its value, its source and what the reference says of it; what a file has is named with its line.
func TestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "site.toml")
	if err := os.WriteFile(file, []byte("site = \"tokyo\"\ndata_dir = \"/var/lib/w\"\n[api]\nlisten = \"[::1]:99\"\n[audit]\nmax_size = \"2MiB\"\n[pool.users]\nuse = \"networks\"\nprefixes = [\"2001:db8:b1ae::/48\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	site, err := config.LoadSite(file)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := site.Settings(file, examples.Site)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]api.Setting{}
	for _, s := range settings {
		if _, twice := got[s.Key]; twice {
			t.Errorf("%s is there twice", s.Key)
		}
		got[s.Key] = s
		if s.Help == "" {
			t.Errorf("%s has no help: examples/site.toml says nothing of it", s.Key)
		}
		if strings.Contains(s.Value, "{") {
			t.Errorf("%s = %s is not as one would write it", s.Key, s.Value)
		}
	}
	for _, want := range []struct {
		key, value, def, where, help string
		source                       api.SettingSource
	}{
		{"--config", `"` + file + `"`, "", "wcc serve --config", "start it again", api.FromFlag},
		{"site", `"tokyo"`, "", file + ":1", "name in the federation", api.FromFile},
		{"api.listen", `"[::1]:99"`, `"[::1]:7646"`, file + ":4", "", api.FromFile},
		{"api.tls", `"off"`, `"off"`, file, "a certificate issued by the site's own CA", api.FromDefault},
		{"api.acme.domains", "[]", "[]", file, "DNS names", api.FromDefault},
		{"audit.max_size", `"2MiB"`, `"64MiB"`, file + ":6", "All its files together", api.FromFile},
		{"audit.keep", `"2160h"`, `"2160h"`, file, "Older entries", api.FromDefault},
		{"network.pref64", `""`, `""`, file, "RFC 6052", api.FromDefault},
		{"network.mtu", "1430", "1430", file, "MTU of new networks", api.FromDefault},
		{"pool.users.prefixes", `["2001:db8:b1ae::/48"]`, "", file + ":9", "", api.FromFile},
		{"pool.users.owners", `["*"]`, "", file, "Owners of this site", api.FromDefault},
		{"metrics.enabled", "true", "true", file, "GET /metrics", api.FromDefault},
	} {
		s := got[want.key]
		if s.Value != want.value || s.Default != want.def || s.Where != want.where || s.Source != want.source || !strings.Contains(s.Help, want.help) {
			t.Errorf("got  %+v\nwant %+v", s, want)
		}
	}
}
