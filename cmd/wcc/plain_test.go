package main

import (
	"bytes"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

// TestPlain: a noun that no file presents has the commands that its description allows, and a column for each plain field of its spec.
func TestPlain(t *testing.T) {
	ctl := servetest.New()
	srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
	h := httptest.NewServer(srv)
	t.Cleanup(func() { srv.Stop(); h.Close() })
	fixture(ctl)
	t.Setenv("WCC_CONFIG", filepath.Join(t.TempDir(), "none.toml"))
	t.Setenv("WCC_SERVER", h.URL)
	t.Setenv("WCC_TOKEN", "admin-token")
	for _, k := range []api.Kind{api.KindOwner, api.KindNetwork, api.KindGuest} {
		was := shapes[k]
		delete(shapes, k)
		t.Cleanup(func() { shapes[k] = was })
	}
	for _, c := range []struct {
		line string
		code int
		want string
	}{
		{"owner create uni title=University --label app=x", 0, "owner uni created\n"},
		{"owner list --name uni", 0, "NAME  TITLE\nuni   University\n"},
		{"owner edit uni title=School", 0, "owner uni changed\n"},
		{"owner list --name uni", 0, "NAME  TITLE\nuni   School\n"},
		{`owner edit uni quota={"cpus":3}`, 0, "owner uni changed\n"},
		{"owner show uni", 0, "cpus: 3"},
		{"owner edit uni quota=three", 2, `wcc: quota: "three" is not JSON`},
		{"owner edit uni quota=3", 1, "wcc: spec.quota: expected object"},
		{"owner edit uni name=x", 2, `wcc: owners have no field "name"; possible: quota, title`},
		{"owner create uni2 title", 2, `wcc: "title" is not FIELD=VALUE`},
		{"owner create uni2 --owner uni", 2, "wcc: unknown flag --owner"},
		{"network create red --owner uni", 0, "network red created\n"},
		{`network create green mtu="big"`, 2, "mtu"},
		{"network list --owner uni", 0, "NAME  IPV4  MOBILITY  MTU  POOL  PREFIX              VNI\nred   -     -         0    -     2001:db8:b000::/64  0\n"},
		{"owner delete uni", 0, "owner uni is being deleted\n"},
		{"owner list --name uni", 0, "NAME  TITLE\n"},
		{"guest create db2", 2, "wcc: unexpected argument create"},
		{"guest edit db1-osaka vm=x", 2, "wcc: unexpected argument edit"},
		{"guest --help", 0, "List guests."},
		{"__complete owner ", 0, "create\ndelete\nedit\nlist\nshow\n"},
		{"__complete owner edit tokyo", 0, "tokyo-u\n"},
	} {
		var out bytes.Buffer
		code := run(t.Context(), strings.Split(c.line, " "), strings.NewReader(""), &out, &out, false)
		if code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("wcc %s: code %d, want %d; it shows\n%swant\n%s", c.line, code, c.code, &out, c.want)
		}
	}
}
