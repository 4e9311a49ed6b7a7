package map646

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// serveControl answers on the control socket until ctx ends. The socket is for
// its owner alone: whoever can reload decides what is translated.
func (d *Daemon) serveControl(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("open control socket: %s answers already", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("open control socket: %w", err), l.Close())
	}
	s := &http.Server{Handler: d.controls(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve control socket: %w", err)
	}
	return nil
}

// maxRequest is what a change of the table may take, in bytes.
const maxRequest = 1 << 30

// controls are the control socket's requests: GET for what only looks.
func (d *Daemon) controls() http.Handler {
	m := http.NewServeMux()
	handle := func(pattern string, f func(r *http.Request) (any, error)) {
		m.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := f(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusUnprocessableEntity)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	handle("GET /stats", func(*http.Request) (any, error) { return d.Stats(), nil })
	handle("GET /table", func(*http.Request) (any, error) { return d.Table(), nil })
	handle("GET /health", func(*http.Request) (any, error) { return append([]string{}, d.Health()...), nil })
	handle("GET /top", func(r *http.Request) (any, error) {
		n, err := strconv.Atoi(r.FormValue("n"))
		if err != nil || n < 1 || n > mostBusy {
			return nil, fmt.Errorf("top: n: %q is not a number from 1 to %d", r.FormValue("n"), mostBusy)
		}
		return d.busiest(n, time.Second), nil
	})
	handle("GET /refused", func(*http.Request) (any, error) { return append([]RefusedLine{}, d.Refused()...), nil })
	handle("POST /reload", func(*http.Request) (any, error) {
		err := d.Reload()
		return Reloaded{d.Stats(), append([]RefusedLine{}, d.Refused()...)}, err
	})
	handle("POST /change", func(r *http.Request) (any, error) {
		body := http.MaxBytesReader(nil, r.Body, maxRequest)
		list, err := ReadChanges(body)
		if err != nil {
			// Who is still writing would see a broken pipe, not the reason.
			_, _ = io.Copy(io.Discard, body)
			return nil, err
		}
		return d.Change(list)
	})
	handle("POST /trace", func(r *http.Request) (any, error) {
		text, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 1<<18))
		if err != nil {
			return nil, err
		}
		return d.Trace(string(text))
	})
	handle("POST /drain", func(*http.Request) (any, error) {
		err := d.Drain(true)
		return d.Stats(), err
	})
	handle("POST /undrain", func(*http.Request) (any, error) {
		err := d.Drain(false)
		return d.Stats(), err
	})
	handle("POST /fast", func(r *http.Request) (any, error) {
		on, err := strconv.ParseBool(r.FormValue("on"))
		if err != nil {
			return nil, fmt.Errorf("fast: on: %q is neither true nor false", r.FormValue("on"))
		}
		err = d.Fast(on)
		return d.Stats(), err
	})
	handle("POST /upgrade", func(r *http.Request) (any, error) {
		return d.Stats(), d.Upgrade(r.Context(), r.FormValue("binary"))
	})
	return m
}

// Control asks the daemon behind a control socket: "stats", "table" and "refused" (a
// []RefusedLine) fill out with their JSON, "reload" reloads and fills it with a Reloaded.
// A failed reload's error has the daemon's words.
func Control(ctx context.Context, socket, what string, out any) error {
	return Ask(ctx, socket, what, nil, out)
}

// Ask is Control for requests with a body or parameters: "top?n=20", "change"
// with the lines that ReadChanges takes, "trace" with a Trace's text, "health",
// "drain", "undrain", "fast?on=true", "upgrade?binary=PATH".
func Ask(ctx context.Context, socket, what string, body io.Reader, out any) error {
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	method := http.MethodPost
	name, _, _ := strings.Cut(what, "?")
	switch name {
	case "stats", "table", "health", "top", "refused":
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://map646/"+what, body)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return fmt.Errorf("ask %s: %w", socket, err)
		}
		return errors.New(string(bytes.TrimSpace(text)))
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("ask %s: %w", socket, err)
	}
	return nil
}
