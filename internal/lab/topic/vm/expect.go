package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/site"
)

// eventually is a check that waits for something of a VM.
type eventually struct {
	VM     *VM
	Within time.Duration
	judge  func(context.Context, *stage.Stage, *VM) (string, error)
}

// Judge implements stage.Judge.
func (e *eventually) Judge(ctx context.Context, s *stage.Stage) (detail string, err error) {
	start := time.Now()
	err = stage.Until(ctx, e.Within, func(ctx context.Context) (err error) { detail, err = e.judge(ctx, s, e.VM); return err })
	if detail != "" {
		detail += ", "
	}
	return fmt.Sprintf("%safter %.1f s", detail, time.Since(start).Seconds()), err
}

func parseStopped(p *script.Parser) any { return parseRests(p, api.PhaseStopped) }

func parseSuspended(p *script.Parser) any { return parseRests(p, api.PhaseSuspended) }

func parseHibernated(p *script.Parser) any { return parseRests(p, api.PhaseHibernated) }

// parseRests takes what is expected of a VM that does not run.
func parseRests(p *script.Parser, phase api.VMPhase) any {
	e := &eventually{VM: ref(p)}
	p.OneOf(string(phase))
	at := ""
	if p.Is("at") {
		at = site.Place(p)
	}
	e.judge = func(ctx context.Context, s *stage.Stage, v *VM) (string, error) { return rests(ctx, s, v, phase, at) }
	e.Within = p.Within(time.Minute)
	return e
}

// rests holds the controller's word that a VM does not run, and why, against the hypervisors'.
func rests(ctx context.Context, s *stage.Stage, v *VM, phase api.VMPhase, at string) (string, error) {
	o, err := api.Get[api.VM](ctx, v.client(), v.name)
	if err != nil {
		return "", err
	}
	if o.Status.Phase != phase {
		return "", fmt.Errorf("vm %s is %s: %s", v.name, o.Status.Phase, o.Status.Message)
	}
	where := o.Status.Site + "/" + o.Status.Host
	if at != "" && at != o.Status.Site && at != where {
		return "", fmt.Errorf("vm %s is %s at %s", v.name, phase, where)
	}
	want := map[string]string{}
	if phase == api.PhaseSuspended {
		want[where] = "paused"
	}
	found, err := site.Of(s.Script).Find(ctx, o.UID)
	if err == nil && !maps.Equal(found.Active, want) {
		err = fmt.Errorf("the controller says %s, and the hypervisors have it as %v", phase, found.Active)
	}
	return "", err
}

func parsePending(p *script.Parser) any {
	e := &eventually{VM: ref(p), judge: pending}
	p.OneOf("pending")
	e.Within = p.Within(time.Minute)
	return e
}

func pending(ctx context.Context, _ *stage.Stage, v *VM) (string, error) {
	o, err := api.Get[api.VM](ctx, v.client(), v.name)
	if err == nil && (o.Status.Phase != api.PhasePending || len(o.Status.Reasons) == 0) {
		err = fmt.Errorf("vm %s is %s with %d reasons", v.name, o.Status.Phase, len(o.Status.Reasons))
	}
	return "", err
}

func parseAddresses(p *script.Parser) any {
	e := &eventually{VM: ref(p), judge: addressesSeen}
	p.OneOf("addresses")
	e.VM.Owner.MustBeReal(p, p.Last(), "no guest uses an address")
	p.OneOf("seen")
	e.Within = p.Within(time.Minute)
	return e
}

// addressesSeen tells whether the VM uses the addresses that it got by router
// advertisement and by DHCP, as its host saw them.
func addressesSeen(ctx context.Context, _ *stage.Stage, v *VM) (string, error) {
	o, err := api.Get[api.VM](ctx, v.client(), v.name)
	if err != nil {
		return "", err
	}
	var l []string
	for _, a := range o.Status.Addresses {
		if a.Origin == api.OriginService || a.Origin == api.OriginGuest {
			continue
		}
		if !a.Seen {
			return "", fmt.Errorf("%s (%s) is not seen", a.Address, a.Origin)
		}
		l = append(l, fmt.Sprintf("%s (%s)", a.Address, a.Origin))
	}
	if len(l) == 0 {
		return "", fmt.Errorf("vm %s has no address", v.name)
	}
	return strings.Join(l, ", "), nil
}

func parseAddress(p *script.Parser) any {
	v := ref(p)
	p.OneOf("address")
	v.Owner.MustBeReal(p, p.Last(), "no guest uses an address")
	origin := map[string]string{"ipv4": api.OriginDHCP, "ipv6": api.OriginSLAAC}[p.OneOf("ipv4", "ipv6")]
	p.OneOf("by")
	source := api.AddressSource(p.OneOf(string(api.SourceDHCP), string(api.SourceNeighbour)))
	return &eventually{VM: v, Within: p.Within(time.Minute), judge: func(ctx context.Context, _ *stage.Stage, v *VM) (string, error) {
		return addressSeen(ctx, v, origin, source)
	}}
}

// addressSeen tells when a source saw the VM last with an address of an origin.
func addressSeen(ctx context.Context, v *VM, origin string, by api.AddressSource) (string, error) {
	o, err := api.Get[api.VM](ctx, v.client(), v.name)
	if err != nil {
		return "", err
	}
	for _, a := range o.Status.Addresses {
		for _, s := range a.Sources {
			if a.Origin == origin && s.Source == by {
				return fmt.Sprintf("%s, seen %s before", a.Address, time.Since(s.Seen).Round(time.Second)), nil
			}
		}
	}
	return "", fmt.Errorf("no %s address of vm %s is seen by %s: %+v", origin, v.name, by, o.Status.Addresses)
}

// Running expects a VM to run.
type Running struct {
	VM      *VM
	Once    bool
	At      string // PLACE; "": anywhere
	Address bool   // unchanged since the VM was first seen running
	As      string // the user of its process; "": anybody
	Within  time.Duration
}

func parseRunning(p *script.Parser) any {
	e := &Running{VM: ref(p), Within: time.Minute}
	p.OneOf("running")
	for p.More() {
		switch p.OneOf("exactly-once", "at", "as", "address", "within") {
		case "exactly-once":
			e.Once = true
		case "at":
			e.At = site.Place(p)
		case "as":
			e.VM.Owner.MustBeReal(p, p.Last(), "a VM has no process of its own")
			e.As = strings.TrimSuffix(p.Next("the user of its process").Text, ",")
		case "address":
			p.OneOf("unchanged")
			e.Address = true
		case "within":
			e.Within = p.Duration(time.Hour)
		}
	}
	return e
}

// Judge implements stage.Judge.
func (e *Running) Judge(ctx context.Context, s *stage.Stage) (string, error) {
	start := time.Now()
	if err := stage.Until(ctx, e.Within, func(ctx context.Context) error { return e.check(ctx, s) }); err != nil {
		return "", err
	}
	e.VM.rememberBoot(ctx, s)
	found, err := site.Of(s.Script).Find(ctx, e.VM.uid)
	return fmt.Sprintf("at %s, by the hypervisors' own word; after %.1f s", strings.Join(slices.Sorted(maps.Keys(found.Active)), ", "), time.Since(start).Seconds()), err
}

// check holds what the hypervisors say against what is expected, then that the
// controller says the same.
func (e *Running) check(ctx context.Context, s *stage.Stage) error {
	found, err := site.Of(s.Script).Find(ctx, e.VM.uid)
	if err != nil {
		return err
	}
	running := 0
	for where, state := range found.Active {
		if state != "running" {
			continue
		}
		running++
		if name, _, _ := strings.Cut(where, "/"); e.At != "" && where != e.At && name != e.At {
			return fmt.Errorf("vm %s runs at %s", e.VM.name, where)
		}
	}
	if running == 0 || e.Once && (running != 1 || len(found.Active) != 1) {
		return fmt.Errorf("vm %s has %d running copies; the hypervisors have it as %v, defined at %v", e.VM.name, running, found.Active, found.Defined)
	}
	o, err := api.Get[api.VM](ctx, e.VM.client(), e.VM.name)
	if err != nil {
		return err
	}
	if where := o.Status.Site + "/" + o.Status.Host; o.Status.Phase != api.PhaseRunning || found.Active[where] == "" {
		return fmt.Errorf("the controller has vm %s as %s at %s: %s", e.VM.name, o.Status.Phase, where, o.Status.Message)
	}
	if e.As != "" {
		user, err := site.Of(s.Script).UserOf(ctx, o.Status.Site, o.Status.Host, e.VM.uid)
		if err != nil {
			return err
		}
		if user != e.As {
			return fmt.Errorf("the process of vm %s is of user %s", e.VM.name, user)
		}
	}
	return e.VM.keeps(o.Status.Addresses, e.Address)
}

// keeps notes the addresses of the VM when it is first seen, and, if asked, compares
// them with these.
func (v *VM) keeps(now []api.VMAddress, compare bool) error {
	addresses := map[string]bool{}
	for _, a := range now {
		if a.Origin != api.OriginGuest {
			addresses[a.Address] = true
		}
	}
	if v.addresses == nil {
		v.addresses = addresses
	}
	if !compare {
		return nil
	}
	if len(v.addresses) == 0 {
		return fmt.Errorf("vm %s has no address", v.name)
	}
	for a := range v.addresses {
		if !addresses[a] {
			return fmt.Errorf("vm %s had the address %s and has it no more", v.name, a)
		}
	}
	return nil
}

// rememberBoot keeps the boot id of a VM that was just seen running, if it can be
// asked; an expectation about it fails if it could not.
func (v *VM) rememberBoot(ctx context.Context, s *stage.Stage) {
	if v.boot != "" || len(v.Service) == 0 {
		return
	}
	if boot, err := v.ask(ctx, s, http.MethodGet, "/boot"); err == nil {
		v.boot = boot
	}
}

// Boot expects that the guest has not booted again.
type Boot struct{ VM *VM }

func parseBoot(p *script.Parser) any {
	b := &Boot{reachable(p)}
	p.OneOf("boot")
	p.OneOf("unchanged")
	return b
}

// Judge implements stage.Judge.
func (b *Boot) Judge(ctx context.Context, s *stage.Stage) (string, error) {
	boot, err := b.VM.ask(ctx, s, http.MethodGet, "/boot")
	switch {
	case err != nil:
		return "", err
	case b.VM.boot == "":
		return "", errors.New("the boot id was never seen before; expect it running first")
	case boot != b.VM.boot:
		return "", fmt.Errorf("boot id %s, it was %s: the guest has booted again", boot, b.VM.boot)
	}
	return "boot id " + boot, nil
}
