package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/coder/websocket"
	"golang.org/x/term"

	"widecloud/api"
)

type vmConsoleCmd struct {
	Name string `arg:"" help:"Its name." complete:"self"`
}

// escape is Ctrl-], as telnet and virsh have it.
const escape = 0x1d

// Run joins the terminal with the console until either ends. Without a terminal, the end of standard input only ends
// what is sent: what the guest says is shown until it or the user ends.
func (c *vmConsoleCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	h, err := s.httpClient()
	if err != nil {
		return err
	}
	address, header := client.Console(c.Name)
	ws, resp, err := websocket.Dial(a, address, &websocket.DialOptions{HTTPClient: h, HTTPHeader: header})
	if err != nil {
		return dialError(err, resp)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(1 << 20)
	if f, ok := a.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		old, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return fmt.Errorf("set the terminal: %w", err)
		}
		defer func() { _ = term.Restore(int(f.Fd()), old) }()
		fmt.Fprintf(a.err, "console of vm %s; Ctrl-] ends it\r\n", c.Name)
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
			fmt.Fprint(a.err, "\r\n")
			return nil
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("console: %w", context.Cause(ctx))
		case err != nil:
			return fmt.Errorf("console: %w", err)
		}
		if _, err := a.out.Write(b); err != nil {
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

// dialError is the controller's own words when it has answered.
func dialError(err error, resp *http.Response) error {
	if resp == nil || resp.Body == nil {
		return fmt.Errorf("call the controller: %w", err)
	}
	var e api.Error
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e) == nil && e.Code != "" {
		return &e
	}
	return fmt.Errorf("console: %w", err)
}
