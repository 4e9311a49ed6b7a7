package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// largePage is what a site's web page must hold; quickPage is a look.
var (
	largePage = plan{Hosts: 1000, VMs: 20_000, Watchers: 1, Changes: 100, Reads: 1, Load: 10 * time.Minute, Report: 5 * time.Second}
	quickPage = plan{Hosts: 100, VMs: 5000, Watchers: 1, Changes: 100, Reads: 1, Load: 30 * time.Second, Report: 5 * time.Second}
)

// pageLine is a line of web/scripts/bench.mjs: a figure, or that the changes are to begin.
type pageLine struct {
	figure
	Load bool
}

// page is what the site's web page is like in Chromium, before the changes and while they go on.
func (r *run) page(ctx context.Context, _ *errgroup.Group) error {
	r.step("the page, in Chromium")
	c := exec.CommandContext(ctx, "node", "scripts/bench.mjs", "http://"+r.site.api, tokenOf("admin"), strconv.Itoa(int(r.plan.Load.Seconds())))
	dir, err := webDir()
	if err != nil {
		return err
	}
	c.Dir, c.Stderr = dir, os.Stderr
	// Chromium goes with it.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGTERM) }
	c.WaitDelay = 10 * time.Second
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return fmt.Errorf("the page's benchmark: %w", err)
	}
	group, gctx := errgroup.WithContext(ctx)
	t := newTraffic(r)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var l pageLine
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			fmt.Fprintln(os.Stderr, lines.Text())
			continue
		}
		if l.Load {
			r.step("load: %d changes a second for %v", r.plan.Changes, r.plan.Load)
			group.Go(func() error {
				return t.pace(gctx, time.Now().Add(r.plan.Load), r.plan.Changes, writers, &t.writes, t.change)
			})
			continue
		}
		r.figures = append(r.figures, l.figure)
		r.step("%s %s %s", l.Name, short(l.Value), l.Unit)
	}
	if err := errors.Join(c.Wait(), group.Wait()); err != nil {
		return fmt.Errorf("the page's benchmark: %w", err)
	}
	if e := t.failed.Load(); e != nil {
		return fmt.Errorf("a request failed: %w", *e)
	}
	r.add("page.changes_per_second", float64(t.done.Load())/r.plan.Load.Seconds(), "1/s")
	return nil
}

// webDir is the directory of the page's sources, here or above.
func webDir() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		dir := filepath.Join(at, "web")
		if _, err := os.Stat(filepath.Join(dir, "scripts", "bench.mjs")); err == nil {
			return dir, nil
		}
		if at == filepath.Dir(at) {
			return "", errors.New("web/scripts/bench.mjs is neither here nor above: run it in a clone")
		}
		at = filepath.Dir(at)
	}
}
