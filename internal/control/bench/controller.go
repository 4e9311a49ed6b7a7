package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/internal/cloud"
	"widecloud/internal/control"
	"widecloud/internal/fed"
	"widecloud/internal/serve"
	"widecloud/internal/serve/page"
	"widecloud/internal/state"
	"widecloud/internal/store/bolt"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// controllerOptions say where a controller's process has its things.
type controllerOptions struct {
	Dir          string
	API, Outside string
}

const (
	keepAlive = 2 * time.Second
	deadAfter = 6 * time.Second
)

// runController is the controller's process: what `wcc serve` constructs, and answers to the questions that come on the
// standard input.
func runController(ctx context.Context, o controllerOptions) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	file, err := bolt.Open(bolt.Options{Path: filepath.Join(o.Dir, "store.db"), Logger: log, Reserve: bolt.DefaultReserve})
	if err != nil {
		return err
	}
	st, err := state.Open(ctx, file, control.Tables())
	if err != nil {
		file.Close()
		return err
	}
	defer st.Close()
	authority, err := wire.LoadAuthority(filepath.Join(o.Dir, "authority.pem"), wire.AuthorityOptions{Site: siteName})
	if err != nil {
		return err
	}
	credential, err := authority.Controller()
	if err != nil {
		return err
	}
	trust, err := wire.NewTrust(wire.TrustOptions{CA: authority.Certificate()})
	if err != nil {
		return err
	}
	images, err := volume.Open(volume.Options{Dir: filepath.Join(o.Dir, "images"), Logger: log})
	if err != nil {
		return err
	}
	defer images.Close()
	var handler http.Handler
	federation, err := fed.New(ctx, fed.Options{
		Credential: credential, Trust: trust, Store: st, Logger: log, KeepAlive: keepAlive, DeadAfter: deadAfter,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }),
	})
	if err != nil {
		return err
	}
	c := control.New(control.Options{
		Name: siteName, State: st, Authority: authority, Federation: federation, Images: images, Logger: log, Endpoint: o.Outside,
		Plan: cloud.Plan{Pools: []cloud.Pool{{Name: "nets", Use: cloud.PoolNetworks, Owners: []string{"*"},
			Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:a00::/40")}}}},
	})
	handler = c.Handler()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.Run(ctx) })
	group.Go(func() error { return federation.Run(ctx) })
	outside, err := wire.Listen(ctx, o.Outside, wire.Options{
		Credential: credential, Trust: trust, Handler: handler, Admit: c.Admit, Join: c.Join, Peer: c.Peer,
		OnSession: func(s *wire.Session) { group.Go(func() error { c.Session(ctx, s); return nil }) },
		Log:       log, KeepAlive: keepAlive, DeadAfter: deadAfter,
	})
	if err != nil {
		return err
	}
	defer outside.Close()
	listener, err := net.Listen("tcp", o.API)
	if err != nil {
		return err
	}
	web, err := page.Handler()
	if err != nil {
		return err
	}
	group.Go(func() error {
		return serve.New(serve.Options{Controller: c, Logger: log, Site: siteName, Page: web}).Serve(ctx, listener, nil)
	})
	group.Go(func() error { return answer(os.Stdin, os.Stdout) })
	return group.Wait()
}

var errParentGone = errors.New("the benchmark has ended")

// answer answers the questions of the first process, one a line. Its end is this process's.
func answer(in io.Reader, out io.Writer) error {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		word, arg, _ := strings.Cut(lines.Text(), " ")
		var v any
		switch word {
		case "inside":
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			v = inside{Goroutines: runtime.NumGoroutine(), Heap: m.HeapAlloc}
		case "profile":
			f, err := os.Create(arg)
			if err != nil {
				return err
			}
			if err := pprof.StartCPUProfile(f); err != nil {
				return err
			}
		case "heap":
			f, err := os.Create(arg)
			if err != nil {
				return err
			}
			if err := errors.Join(pprof.WriteHeapProfile(f), f.Close()); err != nil {
				return err
			}
		case "stop":
			pprof.StopCPUProfile()
		}
		if err := json.NewEncoder(out).Encode(v); err != nil {
			return err
		}
	}
	return errParentGone
}

// inside is what a controller's process says of itself.
type inside struct {
	Goroutines int    `json:"goroutines"`
	Heap       uint64 `json:"heap"` // bytes
}

// controller is the first process's hold on the controller's.
type controller struct {
	site *site
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// start starts the controller and waits until it answers a request; it gives how long that took.
func (c *controller) start(ctx context.Context) (time.Duration, error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	c.cmd = exec.Command(exe, "-role", "controller", "-dir", c.site.dir, "-api", c.site.api, "-outside", c.site.outside)
	c.cmd.Env = append(os.Environ(), roleEnv+"=1")
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return 0, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	c.out = bufio.NewReader(out)
	began := time.Now()
	if err := c.cmd.Start(); err != nil {
		return 0, err
	}
	client := newClient(c.site)
	for {
		_, err := client.get(ctx, "admin", "/v1/vms/"+vmName(0))
		if err == nil {
			return time.Since(began), nil
		}
		if time.Since(began) > time.Minute {
			return 0, fmt.Errorf("the controller does not answer: %w", err)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// roleEnv tells the test's program that it is the controller.
const roleEnv = "WIDECLOUD_BENCH_ROLE"

// kill is kill -9.
func (c *controller) kill() {
	if c.cmd == nil || c.cmd.Process == nil {
		return
	}
	c.cmd.Process.Kill()
	c.cmd.Wait()
	c.cmd = nil
}

// ask asks the process something; v may be nil.
func (c *controller) ask(question string, v any) error {
	if _, err := fmt.Fprintln(c.in, question); err != nil {
		return fmt.Errorf("ask the controller's process: %w", err)
	}
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("ask the controller's process: %w", err)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(line, v)
}
