package libvirt

import (
	"context"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"widecloud/internal/hyper"
)

// Options of a driver. The zero value of each has a default.
type Options struct {
	Socket string                                      // libvirtd's; default /run/libvirt/libvirt-sock
	Dial   func(ctx context.Context) (net.Conn, error) // instead of Socket

	// Dir holds the unix sockets of serial consoles and of migrations: the same path for this process, libvirtd and QEMU,
	// which must be able to pass through it. It is made if missing. Default /run/widecloud/hyper. Paths of unix sockets are
	// short: at most 50 bytes.
	Dir string

	Accel    Accel         // default Auto
	Emulator string        // default /usr/bin/qemu-system-x86_64
	CPUModel string        // the baseline that a guest gets whose spec names none; default Nehalem, the newest that TCG has in full
	Patience time.Duration // after which a call is taken for stuck, and its connection is dropped; default 60 s
	Logger   *slog.Logger
}

// Accel is how guests' code is run.
type Accel string

// The ways of running guests.
const (
	Auto Accel = "auto" // KVM where a guest is seen to make progress under it, TCG otherwise
	KVM  Accel = "kvm"
	TCG  Accel = "tcg"
)

// Driver is a hyper.Driver on a libvirtd.
type Driver struct {
	o    Options
	log  *slog.Logger
	over context.Context // ends with Close
	end  context.CancelFunc

	callGate chan struct{} // one maker of the call link at a time
	accel    accelOnce

	mu       sync.Mutex
	closed   bool
	call     *link
	consoles map[string]*console
	displays map[*console]struct{}
	out, in  map[string]*flight
	usable   []string
	strays   []string // migration sockets of an earlier process that were open when this driver was made
}

var _ hyper.Driver = (*Driver)(nil)

// New makes a driver. libvirtd need not be there yet: calls return hyper.ErrUnreachable until it is.
func New(o Options) (*Driver, error) {
	if o.Socket == "" {
		o.Socket = "/run/libvirt/libvirt-sock"
	}
	if o.Dir == "" {
		o.Dir = "/run/widecloud/hyper"
	}
	if o.Emulator == "" {
		o.Emulator = "/usr/bin/qemu-system-x86_64"
	}
	if o.CPUModel == "" {
		o.CPUModel = "Nehalem"
	}
	if o.Patience <= 0 {
		o.Patience = 60 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch o.Accel {
	case "":
		o.Accel = Auto
	case Auto, KVM, TCG:
	default:
		return nil, fmt.Errorf("accel: %q is neither auto, kvm nor tcg", o.Accel)
	}
	if !filepath.IsAbs(o.Dir) || len(o.Dir) > maxDir {
		return nil, fmt.Errorf("dir: %q is not absolute or longer than %d bytes", o.Dir, maxDir)
	}
	if err := os.MkdirAll(o.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("make dir: %w", err)
	}
	d := &Driver{
		o: o, log: o.Logger, callGate: make(chan struct{}, 1),
		consoles: map[string]*console{}, displays: map[*console]struct{}{}, out: map[string]*flight{}, in: map[string]*flight{},
	}
	if err := d.sweep(); err != nil {
		return nil, fmt.Errorf("remove old sockets: %w", err)
	}
	d.over, d.end = context.WithCancel(context.Background())
	return d, nil
}

const maxDir = 50

// Close is idempotent. What it leaves of migrations is what the death of the process would: see hyper.Driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	call, consoles := d.call, slices.Concat(slices.Collect(maps.Values(d.consoles)), slices.Collect(maps.Keys(d.displays)))
	var flights []*flight
	for _, m := range []map[string]*flight{d.out, d.in} {
		for _, f := range m {
			flights = append(flights, f)
		}
	}
	d.consoles, d.out, d.in = map[string]*console{}, map[string]*flight{}, map[string]*flight{}
	d.mu.Unlock()
	d.end()
	if call != nil {
		call.close()
	}
	for _, c := range consoles {
		c.Close()
	}
	for _, f := range flights {
		f.close()
	}
	return nil
}

func parseUUID(vm string) (u golibvirt.UUID, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(vm, "-", ""))
	if err != nil || len(b) != len(u) {
		return u, fmt.Errorf("vm: %q is not a UUID", vm)
	}
	return golibvirt.UUID(b), nil
}

func uid(u golibvirt.UUID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// Capabilities tells what the host can run; the first call of a driver on Auto runs the KVM probe, which takes seconds.
func (d *Driver) Capabilities(ctx context.Context) (hyper.Capabilities, error) {
	accel, why := d.accel.choose(ctx, d.o)
	c := hyper.Capabilities{Arch: "x86_64", Accel: string(accel), AccelWhy: why, CPUModel: d.o.CPUModel, Profile: len(profiles)}
	err := d.do(ctx, func(l *golibvirt.Libvirt) error {
		v, err := l.ConnectGetVersion()
		if err != nil {
			return err
		}
		c.Hypervisor = fmt.Sprintf("qemu %d.%d.%d (%s)", v/1000000, v/1000%1000, v%1000, accel)
		_, mem, cpus, _, _, _, _, _, err := l.NodeGetInfo()
		if err != nil {
			return err
		}
		c.MemoryMiB, c.CPUs = int(mem>>10), int(cpus)
		c.CPUUsable, err = d.models(l, accel)
		return err
	})
	if err != nil {
		return hyper.Capabilities{}, fmt.Errorf("read capabilities: %w", err)
	}
	return c, nil
}

// models are the CPU models that can run here; asked once, for they change with libvirtd and QEMU only.
func (d *Driver) models(l *golibvirt.Libvirt, accel Accel) ([]string, error) {
	d.mu.Lock()
	known := d.usable
	d.mu.Unlock()
	if known != nil {
		return slices.Clone(known), nil
	}
	doc, err := l.ConnectGetDomainCapabilities(golibvirt.OptString{d.o.Emulator}, golibvirt.OptString{"x86_64"},
		golibvirt.OptString{profiles[0].machine}, golibvirt.OptString{virtType(accel)}, 0)
	if err != nil {
		return nil, err
	}
	models, err := usableModels(doc)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.usable = models
	return slices.Clone(models), nil
}

// canRun refuses a CPU model that this host does not have in full: QEMU would start the guest without what is missing.
func (d *Driver) canRun(ctx context.Context, model string, accel Accel) error {
	if model == "" {
		model = d.o.CPUModel
	}
	return d.do(ctx, func(l *golibvirt.Libvirt) error {
		models, err := d.models(l, accel)
		if err == nil && !slices.Contains(models, model) {
			err = fmt.Errorf("spec.cpuModel: %s cannot run here", model)
		}
		return err
	})
}

func usableModels(doc string) ([]string, error) {
	var caps struct {
		CPU struct {
			Modes []struct {
				Name   string `xml:"name,attr"`
				Models []struct {
					Name   string `xml:",chardata"`
					Usable string `xml:"usable,attr"`
				} `xml:"model"`
			} `xml:"mode"`
		} `xml:"cpu"`
	}
	if err := xml.Unmarshal([]byte(doc), &caps); err != nil {
		return nil, fmt.Errorf("parse domain capabilities: %w", err)
	}
	var models []string
	for _, m := range caps.CPU.Modes {
		for _, n := range m.Models {
			if m.Name == "custom" && n.Usable == "yes" {
				models = append(models, n.Name)
			}
		}
	}
	slices.Sort(models)
	return models, nil
}

// Domains lists the widecloud domains.
func (d *Driver) Domains(ctx context.Context) ([]hyper.Domain, error) {
	var list []hyper.Domain
	err := d.do(ctx, func(l *golibvirt.Libvirt) error {
		doms, _, err := l.ConnectListAllDomains(1, golibvirt.ConnectListDomainsActive)
		if err != nil {
			return err
		}
		for _, dom := range doms {
			if !strings.HasPrefix(dom.Name, namePrefix) {
				continue
			}
			m, _, err := inspect(l, dom)
			if golibvirt.IsNotFound(err) {
				continue // ended meanwhile
			}
			if err != nil {
				return err
			}
			// libvirt's job lasts from Begin to Confirm; only the copy counts. Of a flight that is not ours (its agent died)
			// all that can be said is that there is a job.
			if f := d.get(d.out, m.VM); f != nil {
				m.Migrating = f.busy()
			}
			list = append(list, m)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	return list, nil
}

// inspect reads what a domain is and does.
func inspect(l *golibvirt.Libvirt, dom golibvirt.Domain) (hyper.Domain, live, error) {
	doc, err := l.DomainGetXMLDesc(dom, 0)
	if err != nil {
		return hyper.Domain{}, live{}, err
	}
	v, err := parseLive(doc)
	if err != nil {
		return hyper.Domain{}, live{}, err
	}
	m := hyper.Domain{VM: uid(dom.UUID), Name: v.Meta.Name, Epoch: v.Meta.Epoch, MemoryMiB: int(v.Memory.KiB >> 10), CPUs: v.VCPU, Disks: v.writable()}
	m.State, m.Migrating, err = state(l, dom)
	return m, v, err
}

// state tells an incoming domain from a paused source by libvirt's refusal of job statistics at a target: there is no other
// sign of it from outside until Finish. A domain that was suspended has a reason of its own.
func state(l *golibvirt.Libvirt, dom golibvirt.Domain) (s hyper.State, migrating bool, err error) {
	st, reason, err := l.DomainGetState(dom, 0)
	if err != nil {
		return "", false, err
	}
	job, _, err := l.DomainGetJobStats(dom, 0)
	var le golibvirt.Error
	switch {
	case err == nil:
		migrating = golibvirt.DomainJobType(job) == golibvirt.DomainJobUnbounded
	case errors.As(err, &le) && golibvirt.ErrorNumber(le.Code) == golibvirt.ErrOperationUnsupported:
		return hyper.Incoming, false, nil
	case errors.As(err, &le) && golibvirt.ErrorNumber(le.Code) == golibvirt.ErrOperationInvalid:
		// Not active any more: the state is to be read again, and then says so.
		if st, reason, err = l.DomainGetState(dom, 0); err != nil {
			return "", false, err
		}
	default:
		return "", false, err
	}
	switch golibvirt.DomainState(st) {
	case golibvirt.DomainRunning, golibvirt.DomainBlocked:
		return hyper.Running, migrating, nil
	case golibvirt.DomainPaused:
		if golibvirt.DomainPausedReason(reason) == golibvirt.DomainPausedUser {
			return hyper.Suspended, migrating, nil
		}
		// The last reason: of one that is being restored.
		return hyper.Paused, migrating || golibvirt.DomainPausedReason(reason) == golibvirt.DomainPausedStartingUp, nil
	case golibvirt.DomainShutdown:
		return hyper.Running, migrating, nil // powers off: gone in a moment
	}
	return hyper.Stopped, false, nil
}

// Start makes and runs a domain.
func (d *Driver) Start(ctx context.Context, s hyper.Spec) error {
	err := s.Validate()
	if err != nil {
		return fmt.Errorf("start %s: %w", s.VM, err)
	}
	accel, _ := d.accel.choose(ctx, d.o)
	doc, err := d.render(s, profileOf(s.Profile).machine, accel)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.VM, err)
	}
	if err := d.canRun(ctx, s.CPUModel, accel); err != nil {
		return fmt.Errorf("start %s: %w", s.VM, err)
	}
	err = d.onDomain(ctx, s.VM, func(*golibvirt.Libvirt, golibvirt.Domain) error { return hyper.ErrExists })
	if errors.Is(err, hyper.ErrNotFound) {
		err = d.do(ctx, func(l *golibvirt.Libvirt) error {
			if profileOf(s.Profile).Display != nil {
				if err := d.admitQEMU(l, accel); err != nil { // the display's socket is QEMU's own
					return err
				}
			}
			_, err := l.DomainCreateXML(doc, 0)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", s.VM, diskFull(err, s.Disks))
	}
	d.log.Info("domain started", "vm", s.VM, "epoch", s.Epoch, "accel", accel)
	return nil
}

// inState makes a call for a domain that is in the state.
func (d *Driver) inState(ctx context.Context, vm string, want hyper.State, f func(l *golibvirt.Libvirt, dom golibvirt.Domain) error) error {
	return d.onDomain(ctx, vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		s, _, err := state(l, dom)
		if err != nil {
			return err
		}
		if s != want {
			return fmt.Errorf("%w: %s", hyper.ErrState, s)
		}
		return f(l, dom)
	})
}

// Shutdown presses the ACPI power button.
func (d *Driver) Shutdown(ctx context.Context, vm string) error {
	err := d.inState(ctx, vm, hyper.Running, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		return l.DomainShutdownFlags(dom, golibvirt.DomainShutdownAcpiPowerBtn)
	})
	if err != nil {
		return fmt.Errorf("shut down %s: %w", vm, err)
	}
	return nil
}

// Reboot presses the ACPI power button and lets the guest boot anew after it (libvirt resets it once it is off); hard: the reset button.
func (d *Driver) Reboot(ctx context.Context, vm string, hard bool) error {
	err := d.inState(ctx, vm, hyper.Running, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		if hard {
			return l.DomainReset(dom, 0)
		}
		return l.DomainReboot(dom, golibvirt.DomainRebootAcpiPowerBtn)
	})
	if err != nil {
		return fmt.Errorf("reboot %s: %w", vm, err)
	}
	return nil
}

// Destroy ends a domain at once.
func (d *Driver) Destroy(ctx context.Context, vm string) error {
	if err := d.destroy(ctx, vm); err != nil {
		return fmt.Errorf("destroy %s: %w", vm, err)
	}
	return d.removeScreen(vm)
}

func (d *Driver) destroy(ctx context.Context, vm string) error {
	defer d.sweepLate()
	err := d.onDomain(ctx, vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error { return l.DomainDestroyFlags(dom, 0) })
	if err == nil || errors.Is(err, hyper.ErrNotFound) {
		d.forget(vm)
		return nil
	}
	// The guest may have ended by itself in between.
	if gone := d.onDomain(ctx, vm, func(*golibvirt.Libvirt, golibvirt.Domain) error { return nil }); errors.Is(gone, hyper.ErrNotFound) {
		d.forget(vm)
		return nil
	}
	return err
}

// Suspend stops the domain's CPUs. libvirt keeps that it was asked to, in its own record of the domain.
func (d *Driver) Suspend(ctx context.Context, vm string) error {
	err := d.onDomain(ctx, vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		s, migrating, err := state(l, dom)
		switch {
		case err != nil || s == hyper.Suspended:
			return err
		case s != hyper.Running || migrating:
			return fmt.Errorf("%w: %s", hyper.ErrState, s)
		}
		return l.DomainSuspend(dom)
	})
	if err != nil {
		return fmt.Errorf("suspend %s: %w", vm, err)
	}
	return nil
}

// Resume lets a paused domain run. QEMU takes "cont" in its state postmigrate: it activates its disks again.
func (d *Driver) Resume(ctx context.Context, vm string) error {
	if err := d.confirm(ctx, vm, false); err != nil { // with a flight of ours its job is to be released first
		return fmt.Errorf("resume %s: %w", vm, err)
	}
	return nil
}

func (d *Driver) resume(ctx context.Context, vm string) error {
	return d.onDomain(ctx, vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		s, migrating, err := state(l, dom)
		switch {
		case err != nil:
			return err
		case s == hyper.Running:
			return nil
		case s != hyper.Paused && s != hyper.Suspended || migrating:
			return fmt.Errorf("%w: %s", hyper.ErrState, s)
		}
		return l.DomainResume(dom)
	})
}

// console is the serial line: a unix socket of QEMU's that takes one client at a time. libvirt's own console stream would need
// go-libvirt's streams, which share their connection's fate with calls; the socket does not.
type console struct {
	net.Conn
	gone func()
}

func (c *console) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

func (c *console) Close() error {
	c.gone()
	return c.Conn.Close()
}

// Console attaches to the serial line.
func (d *Driver) Console(ctx context.Context, vm string) (io.ReadWriteCloser, error) {
	var path string
	err := d.onDomain(ctx, vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		_, v, err := inspect(l, dom)
		path = v.console()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open console of %s: %w", vm, err)
	}
	d.mu.Lock()
	old := d.consoles[vm]
	d.mu.Unlock()
	if old != nil {
		old.Close()
	}
	var nd net.Dialer
	nc, err := nd.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open console of %s: %w", vm, err)
	}
	c := &console{Conn: nc}
	c.gone = func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.consoles[vm] == c {
			delete(d.consoles, vm)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		nc.Close()
		return nil, errClosed
	}
	d.consoles[vm] = c
	return c, nil
}

// screen is where QEMU listens for viewers of a domain's display.
func (d *Driver) screen(vm string) string { return filepath.Join(d.o.Dir, vm+".display") }

// removeScreen removes the socket of a domain that is gone. QEMU leaves it.
func (d *Driver) removeScreen(vm string) error {
	if _, err := parseUUID(vm); err != nil {
		return nil
	}
	if err := os.Remove(d.screen(vm)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the display's socket: %w", err)
	}
	return nil
}

// Display attaches to the display: QEMU's VNC server, on a socket that only this host's root reaches.
func (d *Driver) Display(ctx context.Context, vm string) (io.ReadWriteCloser, error) {
	var path string
	err := d.onDomain(ctx, vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		_, v, err := inspect(l, dom)
		if path = v.display(); err == nil && path == "" {
			err = hyper.ErrNoDisplay
		}
		return err
	})
	var nd net.Dialer
	var nc net.Conn
	if err == nil {
		nc, err = nd.DialContext(ctx, "unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open display of %s: %w", vm, err)
	}
	return d.keep(&console{Conn: nc})
}

// keep has Close end an attachment.
func (d *Driver) keep(c *console) (io.ReadWriteCloser, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		c.Conn.Close()
		return nil, errClosed
	}
	c.gone = func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.displays, c)
	}
	d.displays[c] = struct{}{}
	return c, nil
}
