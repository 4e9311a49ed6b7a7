package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"wcc": main})
}

// TestScripts runs testdata/script: transcripts of the command line against the real API over a Controller in memory.
// Scripts have these commands besides testscript's own:
//
//	put FILE         store the object in a file of JSON, whose field "kind" says what it is
//	later KIND FILE  once a watch is open, put each line of a file of JSON, in order
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			ctl := servetest.New()
			srv := serve.New(serve.Options{Controller: ctl, Logger: slog.New(slog.DiscardHandler)})
			h := httptest.NewServer(srv)
			ctx, cancel := context.WithCancel(context.Background())
			e.Defer(func() { cancel(); srv.Stop(); h.CloseClientConnections(); h.Close() })
			fixture(ctl)
			e.Values["world"] = &world{ctl, ctx}
			e.Setenv("WCC_SERVER", h.URL)
			e.Setenv("WCC_TOKEN", "admin-token")
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CONFIG_HOME", e.WorkDir+"/xdg")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"put": func(ts *testscript.TestScript, _ bool, args []string) {
				o, err := decode([]byte(ts.ReadFile(args[0])))
				ts.Check(err)
				ts.Value("world").(*world).ctl.Put(o)
			},
			"later": func(ts *testscript.TestScript, _ bool, args []string) {
				w := ts.Value("world").(*world)
				var l []api.Object
				lines := bufio.NewScanner(strings.NewReader(ts.ReadFile(args[0])))
				for lines.Scan() {
					o, err := decode(lines.Bytes())
					ts.Check(err)
					l = append(l, o)
				}
				go func() {
					for w.ctl.Watching() == 0 {
						if w.ctx.Err() != nil {
							return
						}
						time.Sleep(time.Millisecond)
					}
					for _, o := range l {
						w.ctl.Put(o)
					}
				}()
			},
		},
	})
}

type world struct {
	ctl *servetest.Memory
	ctx context.Context
}

// decode reads an object whose field "kind" says what it is.
func decode(b []byte) (api.Object, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	var k api.Kind
	if err := json.Unmarshal(m["kind"], &k); err != nil {
		return nil, fmt.Errorf("kind: %w", err)
	}
	delete(m, "kind")
	o := api.NewObject(k)
	if o == nil {
		return nil, errors.New("no such kind here: " + string(k))
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return o, d.Decode(o)
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// fixture is a small site: one object of every kind.
func fixture(m *servetest.Memory) {
	meta := func(name string) api.Meta {
		return api.Meta{Name: name, Owner: "tokyo-u", Home: "tokyo", Created: noon}
	}
	for _, o := range []api.Object{
		&api.Site{Meta: api.Meta{Name: "tokyo"}, Spec: api.SiteSpec{Endpoint: "[2001:db8:1::7]:7647", Pools: []api.AddressPool{
			{Name: "campus", Use: "networks", Prefixes: []string{"2001:db8:b000::/40"}, Owners: []string{"*"}},
			{Name: "public4", Use: "addresses", Prefixes: []string{"192.0.2.0/25"}, Except: []string{"192.0.2.64/28"}, Owners: []string{"*"}, Peers: []string{"osaka"}},
		}},
			Status: api.SiteStatus{Self: true, Hosts: 1, Free: api.Resources{CPUs: 3, MemoryMiB: 1536, DiskGiB: 90}}},
		&api.Site{Meta: api.Meta{Name: "osaka"}, Status: api.SiteStatus{Reached: true, RTT: 0.0123, Free: api.Resources{CPUs: 2, MemoryMiB: 1024, DiskGiB: 20, Addresses: 1}}},
		&api.Host{Meta: api.Meta{Name: "h1", Home: "tokyo"}, Spec: api.HostSpec{Roles: []api.HostRole{api.RoleHypervisor, api.RoleGateway}},
			Status: api.HostStatus{Connected: true, CPU: api.CPU{Accel: "tcg"}, Capacity: api.Resources{CPUs: 4, MemoryMiB: 2048, DiskGiB: 100}, Allotted: api.Resources{CPUs: 1, MemoryMiB: 512, DiskGiB: 10}}},
		&api.Owner{Meta: api.Meta{Name: "tokyo-u"}, Spec: api.OwnerSpec{Title: "University of Tokyo"}, Status: api.OwnerStatus{Used: api.Resources{CPUs: 1, MemoryMiB: 512, DiskGiB: 10}}},
		&api.User{Meta: api.Meta{Name: "alice", Owner: "tokyo-u"}, Status: api.UserStatus{Tokens: []string{"t1"}}},
		&api.Peer{Meta: api.Meta{Name: "osaka"}, Spec: api.PeerSpec{Endpoint: "[2001:db8:2::7]:7647", Fingerprint: "ab12"}, Status: api.PeerStatus{Reached: true, RTT: 0.0123}},
		&api.Offer{Meta: api.Meta{Name: "spare", Home: "osaka"}, Spec: api.OfferSpec{To: []string{"*"}, LendLimit: api.Resources{CPUs: 8, MemoryMiB: 4096, DiskGiB: 100}, Lease: 3600, Grace: 600, OnReclaim: "stop"}},
		&api.Image{Meta: meta("tiny"), Status: api.ImageStatus{Phase: "ready", Format: "qcow2", Bytes: 12 << 20, VirtualMiB: 1024, Digest: "sha256:00"}},
		&api.Network{Meta: meta("blue"), Spec: api.NetworkSpec{Prefix: "2001:db8:b::/64", IPv4: "10.1.0.0/24", Mobility: "l2", MTU: 1430, VNI: 100}, Status: api.NetworkStatus{Members: []api.NetworkMember{{Site: "tokyo", Host: "h1"}}}},
		&api.VM{Meta: meta("web1"), Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1, MemoryMiB: 512}, DiskGiB: 10, Image: "tiny", Network: "blue", Power: api.PowerOn},
			Status: api.VMStatus{Phase: api.PhaseRunning, Epoch: 3, Site: "tokyo", Host: "h1", MAC: "02:57:43:aa:bb:cc", Since: noon,
				Addresses: []api.VMAddress{{Address: "2001:db8:b:0:57:43ff:feaa:bbcc", Origin: "slaac", Seen: true, Sources: []api.AddressSeen{{Source: api.SourceNeighbour, Seen: noon}}}, {Address: "10.1.0.5", Origin: "dhcp"}}}},
		&api.Volume{Meta: meta("web1.root"), Spec: api.VolumeSpec{SizeGiB: 10}, Status: api.VolumeStatus{Phase: api.VolumeOwn, VM: "web1", Disk: "root", Image: "sha256:00", SizeMiB: 10240, Site: "tokyo", Host: "h1", AllocatedBytes: 1536 << 10}},
		&api.Guest{Meta: api.Meta{Name: "db1-osaka"}, Spec: api.GuestSpec{VM: "db1", Loan: "loan-9", Host: "h1", Needs: api.Resources{CPUs: 1, MemoryMiB: 256}, Epoch: 2}, Status: api.GuestStatus{Phase: api.PhaseRunning}},
		&api.Address{Meta: meta("203-0-113-10"), Spec: api.AddressSpec{Address: "203.0.113.10", VM: "web1"}, Status: api.AddressStatus{Target: "2001:db8:b:0:57:43ff:feaa:bbcc", Translators: []string{"tokyo/h1"}}},
		&api.Translator{Meta: api.Meta{Name: "h1"}, Spec: api.TranslatorSpec{Host: "h1"}, Status: api.TranslatorStatus{Running: true, Mappings: 1}},
		&api.Job{Meta: meta("create-web1"), Spec: api.JobSpec{Type: "create", Object: "vms/web1"}, Status: api.JobStatus{State: api.JobDone, Started: noon, Ended: noon.Add(1500 * time.Millisecond),
			Progress: api.Progress{WireBytes: 40 << 20, Downtime: 0.0841}}},
		&api.Event{Meta: api.Meta{Name: "e1"}, Time: noon, Type: "vm.started", Object: "vms/web1", Message: "vm web1 runs at tokyo/h1"},
	} {
		m.Put(o)
	}
}

// TestHelp makes the help of every command: kong finds wrong tags only then.
func TestHelp(t *testing.T) {
	parser, err := newParser(&cli{}, os.Stdout, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range parser.Model.Leaves(false) {
		args := strings.Fields(leaf.FullPath())[1:]
		var out, errs bytes.Buffer
		if code := run(context.Background(), append(args, "--help"), strings.NewReader(""), &out, &errs, false); code != 0 {
			t.Errorf("%v --help: code %d: %s", args, code, &errs)
		}
		if !strings.Contains(out.String(), leaf.Help) {
			t.Errorf("%v --help has not %q", args, leaf.Help)
		}
	}
}

func TestProgressOnATerminal(t *testing.T) {
	var errs bytes.Buffer
	p := progress{a: &app{err: screen{&errs}, tty: true}}
	j := &api.Job{Status: api.JobStatus{State: api.JobRunning, Step: "copy", Progress: api.Progress{
		MemoryDone: 128 << 20, MemoryTotal: 512 << 20, DiskDone: 128 << 20, DiskTotal: 512 << 20, Rate: 12.5 * (1 << 20), DirtyRate: 1 << 20, SecondsLeft: 61.4}}}
	p.show(j)
	j.Status.State, j.Status.Progress.MemoryDone, j.Status.Progress.DiskDone = api.JobUndoing, 512<<20, 512<<20
	p.show(j)
	p.end()
	want := "\r\x1b[K[#######-----------------------]  25%  copy  12.5MiB/s, dirtied 1MiB/s, 1m1s left" +
		"\r\x1b[K[##############################] 100%  undoing copy  12.5MiB/s, dirtied 1MiB/s, 1m1s left\n"
	if got := errs.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
