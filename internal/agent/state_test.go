package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/agent/network"
	"widecloud/internal/netplan"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/wire"
)

// gate holds the first Update of a store back, before it begins.
type gate struct {
	store.Store
	armed      atomic.Bool
	held, open chan struct{}
}

func (g *gate) Update(ctx context.Context, f func(store.Tx) error) (int64, error) {
	if g.armed.CompareAndSwap(true, false) {
		close(g.held)
		<-g.open
	}
	return g.Store.Update(ctx, f)
}

// recorded are networks that keep what they were told.
type recorded struct {
	mu   sync.Mutex
	want network.Want
}

func (r *recorded) Apply(_ context.Context, w network.Want) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.want = w
	return nil
}
func (*recorded) Bridge(string) string { return "" }
func (*recorded) Seen(context.Context, string, net.HardwareAddr) ([]network.Sighting, error) {
	return nil, nil
}

type noController struct{}

func (noController) Report(context.Context, wire.HostReport) error { return nil }
func (noController) Image(context.Context, string) (string, io.ReadCloser, error) {
	return "", nil, io.EOF
}
func (noController) Channel(context.Context, wire.ChannelHeader) (net.Conn, error) {
	return nil, io.EOF
}

// gateway makes the agent of a gateway, over a store that is wrapped (nil: as it is).
func gateway(t *testing.T, networks agent.Networks, wrap func(store.Store) store.Store) (*agent.Agent, store.Store) {
	t.Helper()
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "agent.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	var s store.Store = st
	if wrap != nil {
		s = wrap(st)
	}
	a, err := agent.New(t.Context(), agent.Options{
		Site: "tokyo", Host: "h1", Roles: []api.HostRole{api.RoleGateway}, VTEP: netip.MustParseAddr("2001:db8::1"),
		Store: s, Networks: networks, Controller: noController{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a, st
}

func kept(t *testing.T, st store.Store) (s wire.HostState) {
	t.Helper()
	if err := st.View(t.Context(), func(tx store.Tx) error {
		kv, err := tx.Get("state")
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			err = json.Unmarshal(kv.Value, &s)
		}
		if err != nil {
			return err
		}
		kvs, err := tx.List("state/")
		var set []wire.StateEntry
		for _, kv := range kvs {
			set = append(set, wire.StateEntry{Key: strings.TrimPrefix(kv.Key, "state/"), Value: kv.Value})
		}
		var bad []error
		s, bad = wire.Orders{}.With(set, nil).State(s.Revision)
		return errors.Join(append(bad, err)...)
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestNewerOrdersWin: two sessions of the controller give orders at once, as when one replaces another. Whatever the disk's
// delays are, the newer orders are in force at the end, on disk and in memory.
func TestNewerOrdersWin(t *testing.T) {
	g := &gate{held: make(chan struct{}), open: make(chan struct{})}
	g.armed.Store(true)
	a, st := gateway(t, &recorded{}, func(st store.Store) store.Store { g.Store = st; return g })
	var both sync.WaitGroup
	both.Go(func() { a.SetState(t.Context(), wire.HostState{Revision: 5}) })
	<-g.held
	began := make(chan struct{})
	both.Go(func() {
		close(began)
		if err := a.SetState(t.Context(), wire.HostState{Revision: 6}); err != nil {
			t.Error(err)
		}
	})
	<-began
	// The newer one waits its turn, or is done already when the older one goes on: both orders of events are tried.
	time.Sleep(20 * time.Millisecond)
	close(g.open)
	both.Wait()
	if s := kept(t, st); s.Revision != 6 {
		t.Errorf("orders of revision 6 were taken, and those of revision %d are in force", s.Revision)
	}
	if err := a.SetState(t.Context(), wire.HostState{Revision: 5}); !errors.Is(err, &api.Error{Code: api.CodeStale}) {
		t.Errorf("older orders: %v", err)
	}
}

func network77(i int) wire.NetworkOrder {
	return wire.NetworkOrder{Home: "tokyo", Spec: netplan.Spec{
		UID: fmt.Sprintf("99999999-2222-4333-8444-%012d", i), Name: fmt.Sprintf("n%d", i), VNI: uint32(i + 1), MTU: 1430,
		Prefix: netip.MustParsePrefix(fmt.Sprintf("2001:db8:77:%x::/64", i)),
	}}
}

// TestOrdersInParts: orders that are larger than a message come in parts, and are in force when all have come, in order.
func TestOrdersInParts(t *testing.T) {
	whole := wire.HostState{Revision: 7, VMs: []wire.VMOrder{}, Networks: []wire.NetworkOrder{}}
	for i := range 200 {
		n := network77(i)
		for k := range 200 {
			n.Endpoints = append(n.Endpoints, wire.EndpointOrder{VM: n.UID, Hostname: strings.Repeat("x", 40), MAC: "06:00:00:00:00:01", IPv6: n.Prefix.Addr().Next(), VTEP: netip.MustParseAddr("2001:db8::1"), IPv4: netip.AddrFrom4([4]byte{10, 0, 0, byte(k)})})
		}
		whole.Networks = append(whole.Networks, n)
	}
	parts := whole.Split()
	if len(parts) < 2 {
		t.Fatalf("%d part", len(parts))
	}
	for _, p := range parts {
		if b, err := json.Marshal(p); err != nil || len(b) > 5<<20 {
			t.Errorf("a part has %d bytes, %v", len(b), err)
		}
	}
	a, st := gateway(t, &recorded{}, nil)
	give := func(p wire.HostState, code api.Code) {
		t.Helper()
		if err := a.SetState(t.Context(), p); (err == nil) != (code == "") || err != nil && !errors.Is(err, &api.Error{Code: code}) {
			t.Errorf("part %d: %v, want %q", p.Part, err, code)
		}
	}
	give(parts[1], api.CodeInvalid) // before the first
	give(parts[0], "")
	give(parts[0], "") // begun anew
	other := parts[1]
	other.Revision++
	give(other, api.CodeInvalid)
	give(parts[0], "")
	if s := kept(t, st); s.Revision != 0 {
		t.Errorf("half of the orders are in force: revision %d", s.Revision)
	}
	for _, p := range parts[1:] {
		give(p, "")
	}
	if d := cmp.Diff(whole, kept(t, st), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Errorf("put together (-sent +kept):\n%s", d)
	}
	small := wire.HostState{Revision: 8, VMs: []wire.VMOrder{}, Networks: whole.Networks[:1]}
	if p := small.Split(); len(p) != 1 || p[0].Parts != 0 {
		t.Errorf("small orders come in %d parts", len(p))
	}
}

// TestBadEntriesAreLeftOut: what is bad in the orders is left out alone, and reported.
func TestBadEntriesAreLeftOut(t *testing.T) {
	networks := &recorded{}
	a, _ := gateway(t, networks, nil)
	n := network77(1)
	good := wire.EndpointOrder{VM: "11111111-2222-4333-8444-000000000001", MAC: "06:00:00:00:00:01", IPv6: n.Prefix.Addr().Next().Next(), VTEP: netip.MustParseAddr("2001:db8::5")}
	for _, change := range []func(*wire.EndpointOrder){
		func(e *wire.EndpointOrder) { e.MAC = "no MAC" },
		func(e *wire.EndpointOrder) { e.MAC = "02:57:43:00:06:46" },
		func(e *wire.EndpointOrder) { e.IPv6 = netip.MustParseAddr("2001:db8:78::2") },
		func(e *wire.EndpointOrder) { e.IPv4 = netip.MustParseAddr("10.0.0.2") },
		func(e *wire.EndpointOrder) { e.VTEP = netip.MustParseAddr("ff02::1") },
		func(e *wire.EndpointOrder) { e.Hostname = "a b" },
		func(e *wire.EndpointOrder) { e.VM = "../x" },
		func(*wire.EndpointOrder) {}, // twice
	} {
		e := good
		change(&e)
		if len(n.Endpoints) == 0 {
			n.Endpoints = append(n.Endpoints, good)
		}
		n.Endpoints = append(n.Endpoints, e)
	}
	n.Flood = []netip.Addr{netip.MustParseAddr("2001:db8::5"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")}
	if err := a.SetState(t.Context(), wire.HostState{Revision: 1, AnycastVTEP: netip.MustParseAddr("2001:db8:ffff::646"), VMs: []wire.VMOrder{{VM: "../x", Epoch: 1}}, Networks: []wire.NetworkOrder{n}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { a.Run(ctx) })
	defer work.Wait()
	defer cancel()
	for range 200 {
		if a.Report(ctx).Message != "" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	networks.mu.Lock()
	defer networks.mu.Unlock()
	if len(networks.want.Networks) != 1 || len(networks.want.Networks[0].Endpoints) != 1 || len(networks.want.Networks[0].Flood) != 1 {
		t.Errorf("applied: %+v", networks.want.Networks)
	}
	if m := a.Report(ctx).Message; !strings.Contains(m, "no MAC") || !strings.Contains(m, "192.0.2.1") {
		t.Errorf("reported: %q", m)
	}
}

// TestOwnNetworksFirst: the driver carries the first of two networks that exclude each other, so this site's own come first.
func TestOwnNetworksFirst(t *testing.T) {
	networks := &recorded{}
	a, _ := gateway(t, networks, nil)
	of := func(i int, home string) wire.NetworkOrder {
		n := network77(i)
		n.Home = home
		return n
	}
	orders := []wire.NetworkOrder{of(1, "osaka"), of(2, "tokyo"), of(3, "kyoto"), of(4, "tokyo")}
	if err := a.SetState(t.Context(), wire.HostState{Revision: 1, AnycastVTEP: netip.MustParseAddr("2001:db8:ffff::646"), VMs: []wire.VMOrder{}, Networks: orders}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { a.Run(ctx) })
	defer work.Wait()
	defer cancel()
	var names []string
	for range 500 {
		names = nil
		networks.mu.Lock()
		for _, n := range networks.want.Networks {
			names = append(names, n.Name)
		}
		networks.mu.Unlock()
		if len(names) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if d := cmp.Diff([]string{"n2", "n4", "n1", "n3"}, names); d != "" {
		t.Error(d)
	}
}

// translated is a translator that keeps what it was given.
type translated struct {
	mu       sync.Mutex
	mappings []wire.Mapping
}

func (t *translated) Apply(_ context.Context, _ netip.Prefix, m []wire.Mapping) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mappings = m
	return nil
}

func (t *translated) Report(context.Context) wire.TranslatorReport {
	return wire.TranslatorReport{Running: true, Mappings: []netip.Addr{}, Refused: []wire.RefusedMapping{{Service: netip.MustParseAddr("203.0.113.2"), Message: "map646's own"}}}
}

// TestGuardedAddresses: whoever orders it, a gateway takes no service address that is its own, its controller's, or the networks'.
func TestGuardedAddresses(t *testing.T) {
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "agent.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	// As a session to the controller has left it.
	if _, err := st.Update(t.Context(), func(tx store.Tx) error { return tx.Put("controller", []byte("2001:db8:1::7")) }); err != nil {
		t.Fatal(err)
	}
	tr := &translated{}
	a, err := agent.New(t.Context(), agent.Options{
		Site: "tokyo", Host: "gw", Roles: []api.HostRole{api.RoleGateway}, VTEP: netip.MustParseAddr("2001:db8:1::9"), Store: st, Networks: &recorded{},
		Translator: tr, Controller: noController{}, Logger: slog.New(slog.DiscardHandler), Guarded: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	})
	if err != nil {
		t.Fatal(err)
	}
	target := netip.MustParseAddr("2001:db8:77::2")
	s := wire.HostState{Revision: 1, AnycastVTEP: netip.MustParseAddr("2001:db8:ffff::646"), Pref64: netip.MustParsePrefix("2001:db8:64::/96")}
	bad := []string{"127.0.0.1", "192.0.2.1", "2001:db8:1::7", "2001:db8:1::9", "2001:db8:64::1", "2001:db8:ffff::646"}
	for _, service := range append(bad, "203.0.113.1", "203.0.113.2") {
		s.Mappings = append(s.Mappings, wire.Mapping{Service: netip.MustParseAddr(service), Target: target})
	}
	s.Mappings = append(s.Mappings, wire.Mapping{Service: netip.MustParseAddr("203.0.113.3"), Target: netip.MustParseAddr("2001:db8:1::9")})
	bad = append(bad, "203.0.113.3")
	if err := a.SetState(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { a.Run(ctx) })
	defer work.Wait()
	defer cancel()
	var refused []string
	for range 200 {
		refused = nil
		for _, r := range a.Report(ctx).Translator.Refused {
			refused = append(refused, r.Service.String())
		}
		if len(refused) > len(bad) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var given []string
	for _, m := range tr.mappings {
		given = append(given, m.Service.String())
	}
	if d := cmp.Diff([]string{"203.0.113.1", "203.0.113.2"}, given); d != "" {
		t.Errorf("given to the translator (-want +got):\n%s", d)
	}
	if d := cmp.Diff(append([]string{"203.0.113.2"}, bad...), refused); d != "" {
		t.Errorf("reported as refused (-want +got):\n%s", d)
	}
}
