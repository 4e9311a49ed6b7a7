package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/term"

	"widecloud/api"
)

type vmConsoleCmd struct {
	Name string `arg:"" help:"Its name." complete:"self"`
}

// escape is Ctrl-], as telnet and virsh have it.
const escape = 0x1d

// Run joins the terminal with the console until either ends. What the guest says reaches the terminal as it is: a console is
// raw. Without a terminal, the end of standard input only ends what is sent: what the guest says is shown until it or the
// user ends.
func (c *vmConsoleCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	address, header := client.Console(c.Name)
	ws, err := dialConsole(a, client, "console", address, header)
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	ws.SetReadLimit(1 << 20)
	if f, ok := a.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		old, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return fmt.Errorf("set the terminal: %w", err)
		}
		defer func() { _ = term.Restore(int(f.Fd()), old) }()
		a.err.printf("console of vm %s; Ctrl-] ends it\r\n", c.Name)
	}
	ctx, cancel := context.WithCancelCause(a.Context)
	defer cancel(nil)
	go func() { // ends with the process at the latest: a read of standard input cannot be broken off
		if err := send(ctx, ws, a.in); err != nil {
			cancel(err)
		}
	}()
	for {
		_, b, err := ws.Read(ctx)
		switch {
		case errors.Is(context.Cause(ctx), errEscape), websocket.CloseStatus(err) == websocket.StatusNormalClosure:
			a.err.printf("\r\n")
			return nil
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("console: %w", context.Cause(ctx))
		case err != nil:
			return fmt.Errorf("console: %w", err)
		}
		if _, err := a.out.raw.Write(b); err != nil {
			return err
		}
	}
}

var errEscape = errors.New("the user ended it")

func send(ctx context.Context, ws *websocket.Conn, in io.Reader) error {
	b := make([]byte, 4096)
	for {
		n, err := in.Read(b)
		data := b[:n]
		i := bytes.IndexByte(data, escape)
		if i >= 0 {
			data = data[:i]
		}
		if len(data) > 0 {
			if err := ws.Write(ctx, websocket.MessageBinary, data); err != nil {
				return err
			}
		}
		if i >= 0 {
			return errEscape
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
	}
}

// consoleTime is how long a console may take to open.
const consoleTime = 30 * time.Second

// dialConsole opens a VM's console or display.
func dialConsole(ctx context.Context, client *api.Client, what, address string, header http.Header) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, consoleTime, fmt.Errorf("the controller has not answered within %v", consoleTime))
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPClient: client.HTTP(), HTTPHeader: header})
	switch {
	case err == nil:
		return ws, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case resp != nil && resp.Body != nil && resp.StatusCode >= 300:
		return nil, api.AnswerError(resp) // the controller's own words
	}
	return nil, fmt.Errorf("call the controller: %w", err)
}
