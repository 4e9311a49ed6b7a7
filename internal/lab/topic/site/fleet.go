package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/api"
	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/simulated"
	"widecloud/internal/lab/stage"
	"widecloud/internal/netio"
)

// fleetProcess is the process of a site's simulated hosts.
const fleetProcess = "agents"

// Where it has its things.
const (
	fleetConfig = "/etc/widecloud/hosts.json"
	fleetSocket = "/run/widecloud-hosts.sock"
)

// Fleet is a site's simulated hosts: one process on one machine, which has the
// addresses of all of them.
type Fleet struct {
	site  *Site
	hosts []*simulatedHost
	node  *machine.Node
}

// simulatedHost is a place for VMs, and no machine.
type simulatedHost struct {
	site   *Site
	name   string
	number int // as a machine's: its addresses hang on it
}

// Explain implements script.Explainer.
func (h *simulatedHost) Explain() string {
	return fmt.Sprintf("it is simulated, without a machine, links and processes of its own; all hosts of %s are one machine, %s, with the process %s",
		h.site.name, h.site.fleet.Name(), fleetProcess)
}

func (h *simulatedHost) isPlace() {}

// Name, and what simulated hosts can be.
func (f *Fleet) Name() string          { return f.site.name + "/hosts" }
func (f *Fleet) Node() *machine.Node   { return f.node }
func (f *Fleet) RunsOn() *machine.Node { return f.node }
func (f *Fleet) Processes() []string   { return []string{fleetProcess} }
func (f *Fleet) Cut(heal bool) error   { return f.node.CutLink("eth0", !heal) }

// declare names the hosts, if there are any.
func (f *Fleet) declare(p *script.Parser) {
	if f == nil {
		return
	}
	p.Declare(f.Name(), f)
	for _, h := range f.hosts {
		p.Declare(f.site.name+"/"+h.name, h)
	}
}

// Simulated tells whether the site's hosts are simulated.
func (s *Site) Simulated() bool { return s.fleet != nil }

// checkSimulated refuses what a site of simulated hosts cannot have.
func (s *Site) checkSimulated(p *script.Parser) {
	switch {
	case s.fleet == nil:
	case s.gateway != nil:
		p.Fail(p.First(), "a site of simulated hosts has no gateway: no frame goes to or from its VMs")
	case s.Agents != nil:
		p.Fail(p.First(), "the agents of simulated hosts are of this release")
	}
}

// MustBeReal refuses what simulated hosts have not; what says what that is.
func (s *Site) MustBeReal(p *script.Parser, w script.Word, what string) {
	if s.Simulated() {
		p.Fail(w, "the hosts of %s are simulated: %s", s.name, what)
	}
}

// mustBeLike refuses two sites between which no VM can go.
func (s *Site) mustBeLike(p *script.Parser, other *Site) {
	if s.Simulated() != other.Simulated() {
		p.Fail(p.Last(), "of %s and %s, one has simulated hosts and the other machines: no VM can go between them", s.name, other.name)
	}
}

// MustReach refuses a place of VMs where none of the site's can be.
func (s *Site) MustReach(p *script.Parser, place string) {
	name, _, _ := strings.Cut(place, "/")
	if other, ok := script.Lookup[*Site](p, name); ok {
		s.mustBeLike(p, other)
	}
}

// giveAddresses gives the machine the addresses that the hosts would have as machines,
// and leads them there.
func (f *Fleet) giveAddresses() error {
	err := f.node.Setup(func(ns *netio.NS) error {
		for _, h := range f.hosts {
			if err := ns.AddAddr("lo", netip.PrefixFrom(f.site.addr6(h.number), 128)); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The /64s of all hosts; those of machines are longer than this.
	all := netip.PrefixFrom(underlay(f.site.number).Addr(), 54)
	return f.site.router.AddRoute(netio.Route{Dst: all, Gateway: f.site.addr6(fleetNumber), Link: "hosts"})
}

// fleetTime is how long all hosts may take to join, beside 20 a second.
const fleetTime = time.Minute

// start runs the agents and waits until all are connected.
func (f *Fleet) start(ctx context.Context) error {
	s := f.site
	c := simulated.Config{
		Site: s.name, Controller: net.JoinHostPort(s.addr6(ctlNumber).String(), outsidePort), Dir: path.Join(stateDir, "hosts"), Socket: fleetSocket,
		Capacity: hostCapacity, Hosts: make([]simulated.Host, len(f.hosts)),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, h := range f.hosts {
		g.Go(func() error {
			token, err := s.client.JoinToken(gctx, h.name, []api.HostRole{api.RoleHypervisor})
			if err != nil {
				return fmt.Errorf("make join token of %s: %w", h.name, err)
			}
			c.Hosts[i] = simulated.Host{Name: h.name, VTEP: s.addr6(h.number), Token: token}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := f.node.WriteFile(fleetConfig, text); err != nil {
		return err
	}
	p, err := f.node.Start(machine.ProcessOptions{
		Name: fleetProcess, Boot: true, Args: []string{stage.NodeBin + "/wcc", "lab", "hosts", "--config", fleetConfig},
	})
	if err != nil {
		return err
	}
	return stage.Until(ctx, fleetTime+time.Duration(len(f.hosts))*time.Second/20, func(ctx context.Context) error {
		select {
		case <-p.Done():
			return fmt.Errorf("%w: it ended: %v; its log ends: %s", stage.ErrGiveUp, p.Err(), stage.Tail(f.node.LogPath(fleetProcess), 2000))
		default:
		}
		return s.connected(ctx, len(f.hosts))
	})
}

// connected holds the number of hosts whose agents are connected, by the controller's
// word, against the one that is wanted.
func (s *Site) connected(ctx context.Context, want int) error {
	hosts, _, err := api.List[api.Host](ctx, s.client)
	if err != nil {
		return err
	}
	n, why := 0, ""
	for _, h := range hosts {
		if h.Status.Connected {
			n++
		} else if why == "" {
			why = fmt.Sprintf("; %s is not: %s", h.Name, h.Status.Message)
		}
	}
	if n != want {
		return fmt.Errorf("%d of %d hosts are connected, not %d%s", n, len(hosts), want, why)
	}
	return nil
}

// copies tells of each copy of some VMs. Without power there is none.
func (f *Fleet) copies(ctx context.Context, uids []string, found func(uid, host, state string)) error {
	if !f.node.On() {
		return nil
	}
	seen, err := simulated.Ask(ctx, f.node.Path(fleetSocket))
	if err != nil {
		return err
	}
	if len(seen.Breaches) > 0 {
		return fmt.Errorf("%w: the hypervisors of %s saw: %s", stage.ErrGiveUp, f.site.name, strings.Join(seen.Breaches, "; "))
	}
	for _, uid := range uids {
		for host, state := range seen.Copies[uid] {
			found(uid, host, state)
		}
	}
	return nil
}

// Connected expects the agents of so many hosts to be connected.
type Connected struct {
	Site   *Site
	Hosts  int
	Within time.Duration
}

func parseConnected(p *script.Parser) any {
	c := &Connected{Site: ref(p)}
	c.Hosts = p.Number("number of hosts", 0, maxHosts+1)
	p.OneOf("connected")
	c.Within = p.Within(time.Minute)
	return c
}

// Judge implements stage.Judge.
func (c *Connected) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	start := time.Now()
	err := stage.Until(ctx, c.Within, func(ctx context.Context) error { return c.Site.connected(ctx, c.Hosts) })
	return fmt.Sprintf("after %.1f s", time.Since(start).Seconds()), err
}
