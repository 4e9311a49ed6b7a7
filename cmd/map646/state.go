package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"widecloud/internal/map646"
)

type statsCmd struct {
	socketFlag
	outputFlag
	All bool `help:"Show counters that are zero, too." short:"a"`
}

func (c *statsCmd) Run(ctx context.Context) error {
	var s map646.Stats
	if err := map646.Control(ctx, c.Socket, "stats", &s); err != nil {
		return err
	}
	if done, err := c.printed(s); done {
		return err
	}
	line := func(name, format string, args ...any) { fmt.Printf("%-28s %s\n", name, fmt.Sprintf(format, args...)) }
	line("device", "%s", s.Device)
	line("started", "%s, upgraded %d times, process %d", s.Started.Format(time.DateTime), s.Upgrades, s.PID)
	line("mappings", "%d IPv4-IPv6, %d IPv6-IPv6, loaded %s", s.Mappings, s.Mappings66, s.Loaded.Format(time.DateTime))
	line("reloads", "%d good, %d bad", s.Reloads, s.ReloadErrors)
	if s.RefusedLines > 0 {
		line("mappings file", "%d lines are left out: map646 check lists them", s.RefusedLines)
	}
	line("table updates", "%d good, %d refused", s.Updates, s.UpdatesRefused)
	if s.ReloadError != "" {
		line("last reload", "%s", s.ReloadError)
	}
	switch {
	case s.Draining:
		line("routing", "withdrawn: draining")
	case s.Withdrawn:
		line("routing", "withdrawn: not healthy")
	default:
		line("routing", "announced")
	}
	for _, why := range s.Unhealthy {
		line("unhealthy", "%s", why)
	}
	counters := func(path string, packets, bytes map[string]uint64) {
		for _, name := range slices.Sorted(maps.Keys(packets)) {
			if n := packets[name]; n > 0 || c.All {
				line(path+" "+name, "%d packets, %d bytes", n, bytes[name])
			}
		}
	}
	if f := s.Fast; f == nil {
		line("fast", "not configured")
	} else {
		printFast(f)
		counters("fast", f.Packets, f.Bytes)
	}
	counters("full", s.Packets, s.Bytes)
	line("icmp errors", "%d sent, %d withheld", s.ICMPSent, s.ICMPLimited)
	line("joined datagrams", "%d", s.Joined)
	line("failed writes", "%d", s.WriteErrors)
	for i, n := range s.QueuePackets {
		line(fmt.Sprintf("queue %d", i), "%d packets", n)
	}
	return nil
}

func printFast(f *map646.FastStats) {
	state := "on"
	if !f.On {
		state = "off: " + f.Why
	}
	fmt.Printf("%-28s %s; devices: %s; room for %d mappings\n", "fast", state, strings.Join(f.Attached, " "), f.Room)
	switch {
	case !f.On:
	case f.Direct:
		fmt.Printf("%-28s %s\n", "fast, forwarding", "direct")
	case len(f.Hooks) > 0:
		fmt.Printf("%-28s %s\n", "fast, forwarding", "by the kernel: "+strings.Join(f.Hooks, ", "))
	default:
		fmt.Printf("%-28s %s\n", "fast, forwarding", "by the kernel")
	}
	for _, dev := range slices.Sorted(maps.Keys(f.Refused)) {
		fmt.Printf("%-28s %s\n", "fast, not taken: "+dev, f.Refused[dev])
	}
}

type traceCmd struct {
	socketFlag
	outputFlag
	Packet []string `arg:"" help:"ADDRESS, or 'tcp|udp SRC:PORT DST:PORT [ttl N] [size N] [df] [frag OFFSET] [more]', or 'icmp SRC DST …', or - for a packet in hexadecimal from the standard input."`
}

func (c *traceCmd) Run(ctx context.Context) error {
	text := strings.Join(c.Packet, " ")
	if text == "-" {
		b, err := io.ReadAll(io.LimitReader(os.Stdin, 1<<18))
		if err != nil {
			return err
		}
		// Bytes as they are do as well.
		if _, err := hex.DecodeString(strings.Join(strings.Fields(string(b)), "")); err != nil {
			b = []byte(hex.EncodeToString(b))
		}
		text = "hex " + string(b)
	}
	var t map646.Traced
	if err := map646.Ask(ctx, c.Socket, "trace", strings.NewReader(text), &t); err != nil {
		return err
	}
	if done, err := c.printed(t); done {
		return err
	}
	for _, s := range t.Steps {
		if s.Rule == "" {
			fmt.Printf("\n%s\n", s.Result)
			continue
		}
		fmt.Printf("  %-22s %s\n", s.Rule, s.Result)
	}
	return nil
}

type drainCmd struct {
	socketFlag
	Off  bool          `help:"Announce the prefixes again."`
	Wait time.Duration `help:"Wait until nothing has come for two seconds, at most so long; exit code 1 if it still comes."`
}

func (c *drainCmd) Run(ctx context.Context) error {
	what := "drain"
	if c.Off {
		what = "undrain"
	}
	var s map646.Stats
	if err := map646.Control(ctx, c.Socket, what, &s); err != nil {
		return err
	}
	if c.Off {
		if s.Withdrawn {
			return fmt.Errorf("not draining any more, but not healthy: %s", strings.Join(s.Unhealthy, "; "))
		}
		fmt.Println("announced again")
		return nil
	}
	fmt.Println("draining: service prefixes withdrawn, what still comes is translated")
	if c.Wait == 0 {
		return nil
	}
	last, quiet := carried(s), 0
	for end := time.Now().Add(c.Wait); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
		if err := map646.Control(ctx, c.Socket, "stats", &s); err != nil {
			return err
		}
		now := carried(s)
		if quiet++; now != last {
			quiet = 0
		}
		if last = now; quiet >= 4 {
			fmt.Println("drained: nothing comes any more")
			return nil
		}
	}
	return fmt.Errorf("packets still come after %v", c.Wait)
}

// carried is what both paths have translated.
func carried(s map646.Stats) (n uint64) {
	for _, name := range []string{"4to6", "6to4", "6to6"} {
		n += s.Packets[name]
		if s.Fast != nil {
			n += s.Fast.Packets[name]
		}
	}
	return n
}

type healthCmd struct{ socketFlag }

func (c *healthCmd) Run(ctx context.Context) error {
	var why []string
	if err := map646.Control(ctx, c.Socket, "health", &why); err != nil {
		return err
	}
	if len(why) > 0 {
		return errors.New(strings.Join(why, "; "))
	}
	fmt.Println("healthy")
	return nil
}

type fastCmd struct {
	socketFlag
	State string `arg:"" enum:"on,off,status" default:"status" help:"on, off or status."`
}

func (c *fastCmd) Run(ctx context.Context) error {
	var s map646.Stats
	what := map[string]string{"on": "fast?on=true", "off": "fast?on=false", "status": "stats"}[c.State]
	if err := map646.Control(ctx, c.Socket, what, &s); err != nil {
		return err
	}
	if s.Fast == nil {
		fmt.Println("not configured (fast.devices)")
		return nil
	}
	printFast(s.Fast)
	return nil
}

type upgradeCmd struct {
	socketFlag
	Binary string        `help:"The new program; default: the running one's path, where a new one may lie by now." type:"path" short:"b"`
	Wait   time.Duration `help:"How long to wait for the new program to answer." default:"1m"`
}

func (c *upgradeCmd) Run(ctx context.Context) error {
	var s map646.Stats
	if err := map646.Control(ctx, c.Socket, "stats", &s); err != nil {
		return err
	}
	before := s.Upgrades
	what := "upgrade"
	if c.Binary != "" {
		path, err := filepath.Abs(c.Binary)
		if err != nil {
			return err
		}
		what += "?binary=" + url.QueryEscape(path)
	}
	if err := map646.Control(ctx, c.Socket, what, &s); err != nil {
		return err
	}
	for end := time.Now().Add(c.Wait); ; {
		// The socket is the new program's when it answers again.
		s = map646.Stats{}
		err := map646.Control(ctx, c.Socket, "stats", &s)
		if err == nil && s.Upgrades > before {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("the new program does not answer after %v: %w", c.Wait, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	fmt.Printf("upgraded: process %d, %d mappings IPv4-IPv6, %d IPv6-IPv6\n", s.PID, s.Mappings, s.Mappings66)
	return nil
}
