package site

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/api"
	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/translator"
)

// APIAddress is where a controller's machine has its API and page, for itself.
const APIAddress = "[::1]:7646"

const apiPort = 7646

const outsidePort = "7647"

func (f *Federation) startControllers(ctx context.Context) error {
	return f.Each(ctx, func(ctx context.Context, s *Site) error { return f.startController(ctx, s, s.Controller) })
}

// controllerTime is how long a controller may take until its API answers.
const controllerTime = 30 * time.Second

// startController runs a site's controller of a release, and logs in if nobody has.
func (f *Federation) startController(ctx context.Context, s *Site, release *Release) error {
	if err := s.ctl.WriteFile("/etc/widecloud/site.toml", []byte(f.controllerConfig(s, release))); err != nil {
		return err
	}
	c, err := api.NewClient("http://"+APIAddress, "", s.http())
	if err != nil {
		return err
	}
	ready := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		// Any answer of the API is a sign of life; without a token it is a refusal.
		_, err := c.Names(ctx, api.KindSite)
		if errors.Is(err, &api.Error{Code: api.CodeUnauthenticated}) {
			return nil
		}
		return err
	}
	if s.systemd {
		if err = addController(ctx, s.ctl); err == nil {
			err = stage.StartUnit(ctx, s.ctl, controllerProcess, controllerUnit, release.program("wcc"))
		}
		if err == nil {
			err = stage.Until(ctx, controllerTime, ready)
		}
	} else {
		_, err = s.ctl.Start(machine.ProcessOptions{
			Name: controllerProcess, Boot: true, Args: []string{release.program("wcc"), "serve", "--config", "/etc/widecloud/site.toml"},
			Ready: ready, ReadyTimeout: controllerTime,
		})
	}
	if err != nil || s.client != nil {
		return err
	}
	if s.token, err = s.firstLogin(ctx); err != nil {
		return fmt.Errorf("first login at %s: %w", s.name, err)
	}
	if s.client, err = api.NewClient("http://"+APIAddress, s.token, s.http()); err != nil {
		return err
	}
	// For who opens a shell there.
	return s.ctl.WriteFile("/root/.bashrc", fmt.Appendf(nil, "export WCC_SERVER=http://%s WCC_TOKEN=%s PATH=%s:$PATH\n", APIAddress, s.token, stage.NodeBin))
}

func (f *Federation) controllerConfig(s *Site, release *Release) string {
	address := net.JoinHostPort(s.addr6(ctlNumber).String(), outsidePort)
	conf := fmt.Sprintf("site = %q\ndata_dir = %q\n[outside]\nadvertise = %q\n[network]\npref64 = %q\nanycast_vtep = %q\n",
		s.name, stateDir+"/controller", address, f.services.Pref64, anycastVTEP)
	if release.hasPlan() {
		conf += fmt.Sprintf("underlay = [%q]\n%s", underlay(s.number), pools(f.services))
	}
	if s.ImagesKept > 0 {
		conf += fmt.Sprintf("[volumes]\nkeep_images = %q\n", s.ImagesKept)
	}
	if at := s.location; at != nil {
		conf += fmt.Sprintf("[location]\nlatitude = %v\nlongitude = %v\nplace = %q\n", at.Latitude, at.Longitude, s.name)
	}
	return conf
}

// tokenRE finds the first admin's token where a release before first logins has printed it.
var tokenRE = regexp.MustCompile(`wcc_[A-Za-z0-9-]+_[A-Za-z0-9_-]+`)

// firstLogin makes a lasting token of the one that the controller has left for its operator.
func (s *Site) firstLogin(ctx context.Context) (string, error) {
	first, err := os.ReadFile(s.ctl.Path(stateDir + "/controller/first-admin-token"))
	if errors.Is(err, fs.ErrNotExist) {
		printed, err := os.ReadFile(s.ctl.LogPath(controllerProcess))
		if token := tokenRE.Find(printed); err == nil && token != nil {
			return string(token), nil
		}
		return "", errors.Join(errors.New("the controller has neither left a first token nor printed one"), err)
	}
	if err != nil {
		return "", err
	}
	c, err := api.NewClient("http://"+APIAddress, strings.TrimSpace(string(first)), s.http())
	if err != nil {
		return "", err
	}
	t, err := c.NewToken(ctx, api.OwnTokens, api.TokenRequest{Note: "lab"})
	if err != nil {
		return "", err
	}
	return t.Token, nil
}

// http is a client whose connections begin on the site's controller's machine,
// where the API is on the loopback.
func (s *Site) http() *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 4,
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = s.ctl.Do(func() (err error) {
				d := net.Dialer{Timeout: 2 * time.Second}
				c, err = d.DialContext(ctx, network, addr)
				return err
			})
			return c, err
		},
	}}
}

// startAgents starts those of hypervisors.
func (f *Federation) startAgents(ctx context.Context) error {
	return f.Each(ctx, func(ctx context.Context, s *Site) error {
		var g errgroup.Group
		for _, h := range s.hosts {
			g.Go(func() error { return h.startAgent(ctx) })
		}
		if s.fleet != nil {
			g.Go(func() error { return s.fleet.start(ctx) })
		}
		return g.Wait()
	})
}

// startGateways starts those of gateways, whose translators run by now.
func (f *Federation) startGateways(ctx context.Context) error {
	return f.Each(ctx, func(ctx context.Context, s *Site) error {
		if s.gateway == nil {
			return nil
		}
		return s.gateway.startAgent(ctx)
	})
}

func (h *Host) startAgent(ctx context.Context) error {
	s, n, role := h.site, h.node, api.RoleHypervisor
	if h.translator > 0 {
		role = api.RoleGateway
	}
	token, err := s.client.JoinToken(ctx, h.name, []api.HostRole{role})
	if err != nil {
		return fmt.Errorf("make join token of %s: %w", h.name, err)
	}
	conf := fmt.Sprintf("site = %q\nhost = %q\ncontroller = %q\njoin_token = \"/etc/widecloud/join-token\"\nroles = [%q]\nvtep = %q\n"+
		"[capacity]\ncpus = %d\nmemory_mib = %d\ndisk_gib = %d\n",
		s.name, h.name, net.JoinHostPort(s.addr6(ctlNumber).String(), outsidePort), role, s.addr6(h.number),
		hostCapacity.CPUs, hostCapacity.MemoryMiB, hostCapacity.DiskGiB)
	if s.ImagesKept > 0 {
		conf += fmt.Sprintf("[libvirt]\nkeep_images = %q\n", s.ImagesKept)
	}
	if role == api.RoleGateway {
		conf += fmt.Sprintf("[map646]\ncontrol = %q\nconfig = %q\n", translator.Socket, translator.Mappings)
	}
	if err := errors.Join(n.WriteFile("/etc/widecloud/agent.toml", []byte(conf)), n.WriteFile("/etc/widecloud/join-token", []byte(token+"\n"))); err != nil {
		return err
	}
	return h.runAgent(ctx, s.Agents)
}

// agentTime is how long an agent may take to be connected.
const agentTime = time.Minute

// runAgent starts the agent of a release on a configured host, and waits until it is connected.
func (h *Host) runAgent(ctx context.Context, release *Release) error {
	n := h.node
	if h.systemd {
		if err := stage.StartUnit(ctx, n, agentProcess, agentUnit, release.program("wcc")); err != nil {
			return err
		}
	} else if _, err := n.Start(machine.ProcessOptions{Name: agentProcess, Boot: true, Args: []string{release.program("wcc"), "agent", "--config", "/etc/widecloud/agent.toml"}}); err != nil {
		return err
	}
	return stage.Until(ctx, agentTime, func(ctx context.Context) error {
		if p := n.Process(agentProcess); p != nil {
			select {
			case <-p.Done():
				return fmt.Errorf("%w: the agent of %s ended: %v; its log ends: %s", stage.ErrGiveUp, h.name, p.Err(), stage.Tail(n.LogPath(agentProcess), 2000))
			default:
			}
		}
		seen, err := api.Get[api.Host](ctx, h.site.client, h.name)
		if err == nil && !seen.Status.Connected {
			err = fmt.Errorf("host %s is not connected: %s", h.name, seen.Status.Message)
		}
		return err
	})
}

// peer introduces every site to every other, and makes the offers.
func (f *Federation) peer(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for i, a := range f.Sites {
		for _, b := range f.Sites[i+1:] {
			g.Go(func() error {
				return stage.Until(gctx, time.Minute, func(ctx context.Context) error {
					invitation, err := a.client.PeerInvite(ctx)
					if err != nil {
						return fmt.Errorf("invite %s to %s: %w", b.name, a.name, err)
					}
					_, err = b.client.PeerAdd(ctx, invitation)
					if errors.Is(err, &api.Error{Code: api.CodeExists}) {
						err = nil // an earlier try whose answer was lost
					}
					if err != nil {
						return fmt.Errorf("add peer %s at %s: %w", a.name, b.name, err)
					}
					return nil
				})
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return f.Each(ctx, func(ctx context.Context, s *Site) error {
		if r, ok := s.lends(); ok {
			_, err := api.Create(ctx, s.client, &api.Offer{Meta: api.Meta{Name: OfferName}, Spec: api.OfferSpec{
				To: s.To, LendLimit: r, Lease: api.Seconds(time.Hour.Seconds()), Grace: api.Seconds(s.Grace.Seconds()), OnReclaim: api.ReclaimStop}})
			if err != nil {
				return fmt.Errorf("make offer: %w", err)
			}
		}
		return stage.Until(ctx, time.Minute, func(ctx context.Context) error {
			peers, _, err := api.List[api.Peer](ctx, s.client)
			if err != nil {
				return err
			}
			if len(peers) != len(f.Sites)-1 {
				return fmt.Errorf("%d peers, not %d", len(peers), len(f.Sites)-1)
			}
			for _, p := range peers {
				if err := reached(p); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func reached(p *api.Peer) error {
	if !p.Status.Reached {
		return fmt.Errorf("peer %s is not reached: %s", p.Name, p.Status.Message)
	}
	return nil
}

// reaches tells whether the site's controller has a session with another one's that has worked in both directions since. A session
// that a cut has killed is up until both ends have found out.
func (s *Site) reaches(ctx context.Context, site string, since time.Time) error {
	p, err := api.Get[api.Peer](ctx, s.client, site)
	if err != nil {
		return err
	}
	if err := reached(p); err != nil {
		return err
	}
	if !p.Status.Answered.After(since) {
		return fmt.Errorf("peer %s has not answered since", site)
	}
	return nil
}

// lends is what the site offers.
func (s *Site) lends() (api.Resources, bool) {
	if s.Lend != nil {
		return *s.Lend, true
	}
	if s.Percent == 0 {
		return api.Resources{}, false
	}
	part := func(n int) int { return n * s.size() * s.Percent / 100 }
	r := api.Resources{CPUs: part(hostCapacity.CPUs), MemoryMiB: part(hostCapacity.MemoryMiB), DiskGiB: part(hostCapacity.DiskGiB)}
	if s.gateway != nil {
		r.Addresses = 100 * s.Percent / 100
	}
	return r, true
}

// Copies is where a VM is, by the hypervisors' own word: SITE/HOST -> state.
type Copies struct {
	Active  map[string]string // running, paused, …
	Defined []string
}

// Find asks every hypervisor of every site that is on, not the controllers.
func (f *Federation) Find(ctx context.Context, uid string) (Copies, error) {
	all, err := f.FindAll(ctx, uid)
	return all[uid], err
}

// FindAll is Find of several VMs, each of which is in the result.
func (f *Federation) FindAll(ctx context.Context, uids ...string) (map[string]Copies, error) {
	all := map[string]Copies{}
	for _, uid := range uids {
		all[uid] = Copies{Active: map[string]string{}}
	}
	var mu sync.Mutex
	err := f.Each(ctx, func(ctx context.Context, s *Site) error {
		return s.copies(ctx, uids, func(uid, host, state string) {
			mu.Lock()
			defer mu.Unlock()
			c, where := all[uid], s.name+"/"+host
			c.Defined = append(c.Defined, where)
			if state != "shut off" && state != "crashed" {
				c.Active[where] = state
			}
			all[uid] = c
		})
	})
	return all, err
}

// copies tells of each copy of some VMs that the site's hypervisors have.
func (s *Site) copies(ctx context.Context, uids []string, found func(uid, host, state string)) error {
	if s.fleet != nil {
		return s.fleet.copies(ctx, uids, found)
	}
	for _, h := range s.hosts {
		if !h.node.On() {
			continue
		}
		out, err := h.hypervisor.Virsh(ctx, "list", "--all", "--uuid")
		if err != nil {
			return err
		}
		for _, uid := range strings.Fields(out) {
			if !slices.Contains(uids, uid) {
				continue
			}
			state, err := h.hypervisor.Virsh(ctx, "domstate", uid)
			if err != nil {
				continue // it went meanwhile
			}
			found(uid, h.name, strings.TrimSpace(state))
		}
	}
	return nil
}

// Keep implements stage.Keeper: each site's page is at a loopback address of this machine, of its own, since a browser
// tells sessions apart by addresses and not by ports.
func (f *Federation) Keep(st *stage.Stage) error {
	for _, s := range f.Sites {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(s.number >> 8), byte(s.number)}), apiPort)
		d, err := st.Lab.AddDoor(machine.Door{Name: "page of " + s.name, Address: at, Secret: s.token}, s.ctl, APIAddress)
		if err != nil {
			return err
		}
		s.door = d
	}
	return nil
}

// Hints implements stage.Hinter.
func (f *Federation) Hints(self string) string {
	var b strings.Builder
	b.WriteString("  # the web pages, for a browser on this machine: log in with the token\n")
	for _, s := range f.Sites {
		fmt.Fprintf(&b, "  http://%s/  %s, token %s\n", s.door.Address, s.name, s.token)
	}
	for _, s := range f.Sites {
		fmt.Fprintf(&b, "  # %s\n  ip netns exec %s env WCC_SERVER=http://%s WCC_TOKEN=%s %s vm list\n", s.name, s.ctl.NSName(), APIAddress, s.token, self)
	}
	return b.String()
}
