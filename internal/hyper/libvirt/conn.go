package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	golibvirt "github.com/digitalocean/go-libvirt"

	"widecloud/internal/hyper"
)

// link is one connection to libvirtd. go-libvirt knows no context: a call that does not come back in time takes its whole
// link down, which is the only way to make it come back.
type link struct {
	l    *golibvirt.Libvirt
	nc   net.Conn
	dead chan struct{}
	once sync.Once
}

// watched is the link's socket; its first failure marks the link dead.
type watched struct {
	net.Conn
	k *link
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.k.close()
	}
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		w.k.close()
	}
	return n, err
}

type dialOnce struct{ c net.Conn }

func (d dialOnce) Dial() (net.Conn, error) { return d.c, nil }

func (d *Driver) dial(ctx context.Context) (net.Conn, error) {
	if d.o.Dial != nil {
		return d.o.Dial(ctx)
	}
	var nd net.Dialer
	return nd.DialContext(ctx, "unix", d.o.Socket)
}

// open makes a link. The caller closes it.
func (d *Driver) open(ctx context.Context) (*link, error) {
	nc, err := d.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hyper.ErrUnreachable, err)
	}
	k := &link{nc: nc, dead: make(chan struct{})}
	k.l = golibvirt.NewWithDialer(dialOnce{&watched{nc, k}})
	if err := k.do(ctx, func(l *golibvirt.Libvirt) error { return l.ConnectToURI(golibvirt.QEMUSystem) }); err != nil {
		k.close()
		return nil, fmt.Errorf("%w: %w", hyper.ErrUnreachable, err)
	}
	return k, nil
}

func (k *link) close() {
	k.once.Do(func() {
		close(k.dead)
		k.nc.Close()
	})
}

func (k *link) alive() bool {
	select {
	case <-k.dead:
		return false
	default:
		return true
	}
}

// do makes calls on the link, one after another. When ctx ends first, the link is closed and what the calls did is not known.
func (k *link) do(ctx context.Context, f func(l *golibvirt.Libvirt) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- f(k.l) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		k.close()
		<-done
		return fmt.Errorf("%w: %w", hyper.ErrUnreachable, ctx.Err())
	}
	var le golibvirt.Error
	if err != nil && !errors.As(err, &le) && !k.alive() {
		return fmt.Errorf("%w: %w", hyper.ErrUnreachable, err)
	}
	return translate(err)
}

// translate finds the seam's error for libvirt's, and keeps libvirt's text.
func translate(err error) error {
	var le golibvirt.Error
	if !errors.As(err, &le) {
		return err
	}
	switch golibvirt.ErrorNumber(le.Code) {
	case golibvirt.ErrNoDomain:
		return fmt.Errorf("%w: %w", hyper.ErrNotFound, err)
	case golibvirt.ErrDomExist:
		return fmt.Errorf("%w: %w", hyper.ErrExists, err)
	}
	return err
}

// calls is the link for calls that do not belong to a migration. It is made again when it was lost.
func (d *Driver) calls(ctx context.Context) (*link, error) {
	select {
	case d.callGate <- struct{}{}:
		defer func() { <-d.callGate }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", hyper.ErrUnreachable, ctx.Err())
	}
	d.mu.Lock()
	k, closed := d.call, d.closed
	d.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	if k != nil && k.alive() {
		return k, nil
	}
	k, err := d.open(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		k.close()
		return nil, errClosed
	}
	d.call = k
	return k, nil
}

var errClosed = fmt.Errorf("%w: driver is closed", hyper.ErrUnreachable)

// do makes calls on the call link, within the driver's patience.
func (d *Driver) do(ctx context.Context, f func(l *golibvirt.Libvirt) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.o.Patience)
	defer cancel()
	k, err := d.calls(ctx)
	if err != nil {
		return err
	}
	return k.do(ctx, f)
}

// onDomain makes calls for a VM's domain. ErrNotFound when there is none.
func (d *Driver) onDomain(ctx context.Context, vm string, f func(l *golibvirt.Libvirt, dom golibvirt.Domain) error) error {
	uuid, err := parseUUID(vm)
	if err != nil {
		return err
	}
	return d.do(ctx, func(l *golibvirt.Libvirt) error {
		dom, err := l.DomainLookupByUUID(uuid)
		if err != nil {
			return err
		}
		return f(l, dom)
	})
}
