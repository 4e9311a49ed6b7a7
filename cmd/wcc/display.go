package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/coder/websocket"

	"widecloud/api"
	"widecloud/internal/rfb"
)

type vmDisplayCmd struct {
	Name   string `arg:"" help:"Its name." complete:"self"`
	Listen string `default:"127.0.0.1:0" help:"Where a viewer connects to: unix:PATH, which is for you alone, or a port of this machine's own address, which every program of it may use." placeholder:"unix:PATH|127.0.0.1:PORT"`
	Link   bool   `help:"Print the address of a websocket instead, which works once within 30 s and needs no token: for noVNC."`
}

// Run relays each viewer that connects, until the user ends it. A viewer's connection ends when the VM moves: the next one finds it
// where it is then.
func (c *vmDisplayCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	if c.Link {
		return c.link(a, client)
	}
	ln, run, err := listenLocal(c.Listen)
	if err != nil {
		return err
	}
	defer ln.Close()
	// Before anybody connects: a VM without a display is refused here, and not in a viewer.
	if ws, err := dialDisplay(a, client, c.Name); err != nil {
		return err
	} else {
		ws.CloseNow()
	}
	a.out.printf("display of vm %s: %s\n", c.Name, run)
	a.err.printf("Ctrl-C ends it\n")
	stop := context.AfterFunc(a, func() { ln.Close() })
	defer stop()
	for {
		viewer, err := ln.Accept()
		if a.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for a viewer: %w", err)
		}
		go func() {
			defer viewer.Close()
			if err := relayDisplay(a, client, c.Name, viewer); err != nil && a.Err() == nil {
				a.err.printf("%v\n", err)
			}
		}()
	}
}

func (c *vmDisplayCmd) link(a *app, client *api.Client) error {
	t, err := client.Ticket(a, c.Name, api.TicketDisplay)
	if err != nil {
		return err
	}
	address, _ := client.Display(c.Name)
	base, ok := strings.CutPrefix(strings.TrimSuffix(address, strings.TrimSuffix(t.Path, "?ticket="+t.Ticket)), "http")
	if !ok {
		return fmt.Errorf("%s is not an address of HTTP", address)
	}
	a.out.printf("ws%s%s\n", base, t.Path)
	return nil
}

// listenLocal listens where no other machine connects to, and says what a user runs then.
func listenLocal(address string) (ln net.Listener, run string, err error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path, err = filepath.Abs(path); err != nil {
			return nil, "", err
		}
		if ln, err = net.Listen("unix", path); err != nil {
			return nil, "", usageError{err}
		}
		if err := os.Chmod(path, 0o600); err != nil {
			ln.Close()
			return nil, "", err
		}
		return ln, "vncviewer " + path, nil
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().IsLoopback() {
		return nil, "", usagef("--listen: %q is neither unix:PATH nor a port of 127.0.0.1 or [::1]: whoever reaches it has the display", address)
	}
	if ln, err = net.Listen("tcp", address); err != nil {
		return nil, "", usageError{err}
	}
	host, port, err := net.SplitHostPort(ln.Addr().String())
	return ln, fmt.Sprintf("vncviewer %s::%s, or remote-viewer vnc://%s", host, port, ln.Addr()), err
}

func dialDisplay(ctx context.Context, client *api.Client, vm string) (*websocket.Conn, error) {
	address, header := client.Display(vm)
	ws, err := dialConsole(ctx, client, "display", address, header)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(1 << 20)
	return ws, nil
}

// relayDisplay joins a viewer with the display until either ends. The error is the reason that the display's end gives.
func relayDisplay(ctx context.Context, client *api.Client, vm string, viewer net.Conn) error {
	ws, err := dialDisplay(ctx, client, vm)
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	go func() {
		defer ws.CloseNow()
		b := make([]byte, 32<<10)
		for {
			n, err := viewer.Read(b)
			if n > 0 && ws.Write(ctx, websocket.MessageBinary, b[:n]) != nil || err != nil {
				return
			}
		}
	}()
	for {
		_, b, err := ws.Read(ctx)
		var ended websocket.CloseError
		switch {
		case errors.As(err, &ended):
			return fmt.Errorf("display: %s", ended.Reason)
		case err != nil:
			return nil // the viewer has gone
		}
		if _, err := viewer.Write(b); err != nil {
			return nil
		}
	}
}

type vmScreenshotCmd struct {
	Name string `arg:"" help:"Its name." complete:"self"`
	File string `arg:"" help:"Where to: FILE.png, FILE.ppm, or - for a PNG on standard output." type:"path"`
}

func (c *vmScreenshotCmd) Run(a *app) error {
	kind := strings.ToLower(filepath.Ext(c.File))
	if c.File != "-" && kind != ".png" && kind != ".ppm" {
		return usagef("%s: its name must end in .png or .ppm", c.File)
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	picture, err := capture(a, client, c.Name)
	if err != nil {
		return err
	}
	if c.File == "-" {
		return png.Encode(a.out.raw, picture)
	}
	f, err := os.Create(c.File)
	if err != nil {
		return err
	}
	write := png.Encode
	if kind == ".ppm" {
		write = writePPM
	}
	if err := errors.Join(write(f, picture), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", c.File, err)
	}
	a.out.printf("%s: %d x %d\n", c.File, picture.Bounds().Dx(), picture.Bounds().Dy())
	return nil
}

// capture looks at a VM's display.
func capture(ctx context.Context, client *api.Client, vm string) (*image.RGBA, error) {
	ctx, cancel := context.WithTimeout(ctx, consoleTime)
	defer cancel()
	ws, err := dialDisplay(ctx, client, vm)
	if err != nil {
		return nil, err
	}
	defer ws.CloseNow()
	return rfb.Capture(websocket.NetConn(ctx, ws, websocket.MessageBinary))
}

// writePPM writes a picture as netpbm's P6.
func writePPM(w io.Writer, m image.Image) error {
	out := bufio.NewWriter(w)
	size := m.Bounds()
	fmt.Fprintf(out, "P6\n%d %d\n255\n", size.Dx(), size.Dy())
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			r, g, b, _ := m.At(x, y).RGBA()
			out.Write([]byte{byte(r >> 8), byte(g >> 8), byte(b >> 8)})
		}
	}
	return out.Flush()
}
