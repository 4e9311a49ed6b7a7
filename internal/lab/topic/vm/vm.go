package vm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/flow"
	"widecloud/internal/lab/topic/site"
)

// Network is a VMs' network.
type Network struct {
	Name         string // on its site
	Owner        *site.Site
	Prefix, IPv4 netip.Prefix
}

func parseNetwork(p *script.Parser) any {
	n := &Network{Name: p.NewName("network")}
	p.OneOf("owner")
	n.Owner = site.Ref(p)
	p.OneOf("prefix")
	n.Prefix = stage.FreshPrefix(p, p.Prefix("IPv6 prefix of length 64", func(x netip.Prefix) bool { return x.Addr().Is6() && x.Bits() == 64 }))
	if p.Is("ipv4") {
		n.IPv4 = stage.FreshPrefix(p, p.Prefix("IPv4 prefix of length 16 to 28", func(x netip.Prefix) bool { return x.Addr().Is4() && x.Bits() >= 16 && x.Bits() <= 28 }))
	}
	p.Declare(n.Name, n)
	n.Name = stage.FreshName(p, n.Name)
	return n
}

// Do implements stage.Doer.
func (n *Network) Do(ctx context.Context, s *stage.Stage) error {
	o := &api.Network{Meta: api.Meta{Name: n.Name}, Spec: api.NetworkSpec{Prefix: n.Prefix.String()}}
	if n.IPv4.IsValid() {
		o.Spec.IPv4 = n.IPv4.String()
	}
	if _, err := api.Create(ctx, n.Owner.Tenant(), o); err != nil {
		return err
	}
	s.Undo("delete network "+n.Name, func(ctx context.Context) error { return gone[api.Network](ctx, n.Owner.Tenant(), n.Name) })
	return nil
}

// goneTime is how long a deleted object may take to be gone.
const goneTime = time.Minute

// gone deletes an object, and waits until it is gone. None there is no error.
func gone[O any, P interface {
	*O
	api.Object
}](ctx context.Context, c *api.Client, name string) error {
	if _, err := api.Delete[O, P](ctx, c, name); err != nil && !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return err
	}
	return stage.Until(ctx, goneTime, func(ctx context.Context) error {
		_, err := api.Get[O, P](ctx, c, name)
		switch {
		case errors.Is(err, &api.Error{Code: api.CodeNotFound}):
			return nil
		case err == nil:
			return fmt.Errorf("%s is still there", name)
		}
		return err
	})
}

// VM is what is declared of one, and what is known of it since it was made.
type VM struct {
	name            string
	Owner           *site.Site
	Network         *Network
	Image           *Image
	Service         []netip.Addr
	At              string // PLACE; "": anywhere
	CPUs, MemoryMiB int
	Profile         int    // 0: the newest
	UserData        string // a file beside the script
	Disks           []api.Disk
	// So far in the script:
	migrates bool
	written  map[string]bool // disks; "": the root disk

	uid       string
	addresses map[string]bool    // at its first running
	boot      string             // its boot id, once asked
	data      map[string]written // by disk
	job       jobRef             // its last migration
}

// written is what was written to a disk.
type written struct {
	digest string
	mib    int
}

// Name is the VM's name.
func (v *VM) Name() string { return v.name }

// Processors implements stage.Emulated.
func (v *VM) Processors() int {
	if v.Owner.Simulated() {
		return 0
	}
	return v.CPUs
}

// HostFor implements stage.Target.
func (v *VM) HostFor(c stage.Client) (string, error) {
	if v.Owner.Simulated() {
		return "", fmt.Errorf("vm %s is on simulated hosts, which carry no traffic", v.name)
	}
	host, err := stage.Choose(c, v.name, v.Service)
	if err != nil {
		return "", fmt.Errorf("vm %s has no service address that a client at %s could use", v.name, c.Name())
	}
	return host, nil
}

func ref(p *script.Parser) *VM { return script.Ref[*VM](p, "vm") }

// words are what a VM's statement can have.
var words = []string{"owner", "network", "image", "service", "at", "cpus", "memory", "profile", "disk", "user-data"}

func parseVM(p *script.Parser) any {
	v := &VM{name: p.NewName("vm")}
	v.parse(p, words)
	p.Declare(v.name, v)
	v.name = stage.FreshName(p, v.name)
	return v
}

// parse takes what follows the name.
func (v *VM) parse(p *script.Parser, words []string) {
	v.CPUs, v.MemoryMiB = 1, 128
	for p.More() {
		switch p.OneOf(words...) {
		case "owner":
			v.Owner = site.Ref(p)
		case "network":
			v.Network = script.Ref[*Network](p, "network")
		case "image":
			v.Image = script.Ref[*Image](p, "image")
		case "service":
			v.Service = site.Services(p).Take(p, v)
		case "at":
			v.At = site.Place(p)
		case "cpus":
			v.CPUs = p.Number("CPUs", 1, 8)
		case "memory":
			v.MemoryMiB = p.MiB("size")
		case "profile":
			v.Profile = p.Number("hardware profile", 1, api.NewestProfile)
		case "disk":
			v.Disks = append(v.Disks, parseDiskSize(p))
		case "user-data":
			v.UserData = p.Next("file").Text
		}
	}
	end := p.Peek()
	switch {
	case v.Owner == nil:
		p.Fail(end, "owner SITE is missing")
	case v.Network == nil:
		p.Fail(end, "network NETWORK is missing")
	case v.Network.Owner != v.Owner:
		p.Fail(end, "network %s is %s's, the VM is %s's", v.Network.Name, v.Network.Owner.Name(), v.Owner.Name())
	}
	if v.Image == nil {
		all := script.Earlier[*Image](p)
		if len(all) == 0 {
			p.Fail(end, "there is no image yet; say: image tiny")
		}
		v.Image = all[0]
	}
	v.Image.owners[v.Owner] = true
	v.Owner.MustReach(p, v.At)
	if v.UserData != "" {
		v.Owner.MustBeReal(p, end, "no guest reads user-data")
	}
	if v.Image.Name == blank && !v.Owner.Simulated() {
		p.Fail(end, "image %s boots nowhere; it is for simulated hosts", blank)
	}
}

func (v *VM) client() *api.Client { return v.Owner.Tenant() }

// Do implements stage.Doer: it makes the VM with its service addresses, as a user would.
func (v *VM) Do(ctx context.Context, s *stage.Stage) error {
	spec := api.VMSpec{
		Hardware: api.Hardware{CPUs: v.CPUs, MemoryMiB: v.MemoryMiB, Profile: v.Profile}, Image: v.Image.Name, Network: v.Network.Name, Power: api.PowerOn, Place: v.At, Disks: v.Disks,
	}
	if v.UserData != "" {
		b, err := os.ReadFile(filepath.Join(s.Dir, v.UserData))
		if err != nil {
			return err
		}
		spec.UserData = string(b)
	}
	made, err := api.Create(ctx, v.client(), &api.VM{Meta: api.Meta{Name: v.name}, Spec: spec})
	if err != nil {
		return err
	}
	v.uid = made.UID
	s.Undo("delete vm "+v.name, func(ctx context.Context) error { return gone[api.VM](ctx, v.client(), v.name) })
	for _, a := range v.Service {
		name := strings.NewReplacer(".", "-", ":", "-").Replace(a.StringExpanded())
		if _, err := api.Create(ctx, v.client(), &api.Address{Meta: api.Meta{Name: name}, Spec: api.AddressSpec{Address: a.String(), VM: v.name}}); err != nil {
			return err
		}
		s.Undo("delete address "+name, func(ctx context.Context) error { return gone[api.Address](ctx, v.client(), name) })
	}
	return nil
}

// Power is what a VM's user does with its power.
type Power struct {
	VM   *VM
	Verb string // stop, start, suspend, hibernate, resume, reboot, delete
}

func parsePower(verb string) func(*script.Parser) any {
	return func(p *script.Parser) any { return &Power{ref(p), verb} }
}

// Do implements stage.Doer.
func (w *Power) Do(ctx context.Context, _ *stage.Stage) error {
	v := w.VM
	set := func(power api.Power) error {
		_, err := api.Edit(ctx, v.client(), v.name, func(o *api.VM) error { o.Spec.Power = power; return nil })
		return err
	}
	switch w.Verb {
	case "stop":
		return set(api.PowerOff)
	case "start", "resume":
		return set(api.PowerOn)
	case "suspend":
		return set(api.PowerSuspended)
	case "hibernate":
		return set(api.PowerHibernated)
	case "reboot":
		v.boot = ""
		return v.client().Reboot(ctx, v.name, false)
	}
	if _, err := api.Delete[api.VM](ctx, v.client(), v.name); err != nil {
		return err
	}
	return gone[api.VM](ctx, v.client(), v.name)
}

// reachable takes a VM with a service address: the lab talks to it from outside.
func reachable(p *script.Parser) *VM {
	w := p.Peek()
	v := ref(p)
	v.Owner.MustBeReal(p, w, "there is no guest that could be asked")
	if len(v.Service) == 0 {
		p.Fail(w, "vm %s has no service address by which it could be asked", v.name)
	}
	return v
}

// guestMiB is the memory that the tiny guest, its kernel included, does not do without.
const guestMiB = 80

// Dirty lets the guest write its memory over and over.
type Dirty struct {
	VM   *VM
	MiB  int
	Rate int64 // bytes a second
}

func parseDirty(p *script.Parser) any {
	d := &Dirty{VM: reachable(p)}
	at := p.Peek()
	d.MiB = p.MiB("size")
	if most := d.VM.MemoryMiB - guestMiB; d.MiB > most {
		p.Fail(at, "more than %d MiB: a guest of %d MiB needs the other %d for itself", most, d.VM.MemoryMiB, guestMiB)
	}
	p.OneOf("rate")
	d.Rate = p.Quantity("rate in bytes a second", 1e9)
	return d
}

// Do implements stage.Doer.
func (d *Dirty) Do(ctx context.Context, s *stage.Stage) error {
	_, err := d.VM.ask(ctx, s, http.MethodPost, fmt.Sprintf("/dirty?mb=%d&rate=%d", d.MiB, d.Rate))
	return err
}

// An emulated guest beside busy cores takes its time: 16 MiB of its disk have taken
// 20 s.
const (
	askTime  = time.Minute
	asksTime = 3 * time.Minute
)

// ask makes a request to the guest, from the Internet.
func (v *VM) ask(ctx context.Context, s *stage.Stage, method, path string) (answer string, err error) {
	from, host := stage.FromInternet(s.Script, v)
	if from == nil {
		return "", fmt.Errorf("vm %s has no service address by which it could be asked", v.name)
	}
	err = stage.Until(ctx, asksTime, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		answer, err = flow.Request(ctx, from.ClientNode(), method, stage.URL(host)+path)
		return err
	})
	return strings.TrimSpace(answer), err
}
