package vms

import (
	"context"
	"errors"
	"io"
	"net"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Console opens a VM's serial console.
func (vs *VMs) Console(ctx context.Context, p access.Actor, vm string) (io.ReadWriteCloser, error) {
	v, err := vs.running(ctx, p, vm)
	if err != nil {
		return nil, err
	}
	return vs.attach(ctx, p, v, vs.endOf(v.Status.Site).Console)
}

// Display opens a VM's display.
func (vs *VMs) Display(ctx context.Context, p access.Actor, vm string) (io.ReadWriteCloser, error) {
	v, err := vs.running(ctx, p, vm)
	if err != nil {
		return nil, err
	}
	if !api.HasDisplay(api.ProfileOf(v)) {
		return nil, api.Errorf(api.CodeRefused, "the hardware of VM %s has no display; it has the serial console. "+
			"With profile %d it has one: stop it, then `wcc vm resize %s --profile %d`", vm, api.NewestProfile, vm, api.NewestProfile)
	}
	return vs.attach(ctx, p, v, vs.endOf(v.Status.Site).Display)
}

// attach opens something of a VM where it runs now, until the user has other rights.
func (vs *VMs) attach(ctx context.Context, p access.Actor, v *api.VM, open func(context.Context, wire.ConsoleHeader) (net.Conn, error)) (io.ReadWriteCloser, error) {
	valid, done, err := vs.accounts.Begin(context.WithoutCancel(ctx), p)
	if err != nil {
		return nil, err
	}
	conn, err := open(ctx, wire.ConsoleHeader{VM: v.UID})
	if err != nil {
		done()
		return nil, notThere(v, err)
	}
	context.AfterFunc(valid, func() { conn.Close() })
	return &console{conn, done, func() error { return vs.ended(context.WithoutCancel(ctx), v) }}, nil
}

// console is a console or display that its user's end closes, too.
type console struct {
	io.ReadWriteCloser
	done func()
	why  func() error // it has ended; io.EOF: nothing is known
}

// Read says at the end why it is that, where that is known.
func (c *console) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	if errors.Is(err, io.EOF) {
		err = c.why()
	}
	return n, err
}

func (c *console) Close() error {
	c.done()
	return c.ReadWriteCloser.Close()
}

// ended says what has become of a VM whose console has ended.
func (vs *VMs) ended(ctx context.Context, was *api.VM) error {
	why := io.EOF
	err := vs.Read(ctx, func(tx *state.Tx) error {
		v, err := objects.Find[api.VM](tx, was.Name)
		switch {
		case errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && v.UID != was.UID:
			why = api.Errorf(api.CodeNotFound, "VM %s was deleted", was.Name)
		case err != nil:
			return err
		case v.Status.Site != was.Status.Site || v.Status.Host != was.Status.Host:
			why = api.Errorf(api.CodeConflict, "VM %s has moved to %s/%s: connect again", was.Name, v.Status.Site, v.Status.Host)
		case v.Status.Phase != api.PhaseRunning && v.Status.Phase != api.PhaseMigrating && v.Status.Phase != api.PhaseSuspended:
			why = api.Errorf(api.CodeConflict, "VM %s is %s", was.Name, v.Status.Phase)
		}
		return nil
	})
	if err != nil {
		return io.EOF
	}
	return why
}
