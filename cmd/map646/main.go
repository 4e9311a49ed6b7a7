// Command map646 is a stateless translator between IPv4 and IPv6, and between
// IPv6 service addresses and the machines behind them.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"

	"widecloud/internal/map646"
)

type cli struct {
	Run    runCmd    `cmd:"" help:"Translate until told to stop. SIGHUP reloads."`
	Check  checkCmd  `cmd:"" help:"Read a configuration and say what is wrong with it."`
	Reload reloadCmd `cmd:"" help:"Have the running translator read its configuration again."`
	Stats  statsCmd  `cmd:"" help:"Show what the running translator has counted."`
	Table  tableCmd  `cmd:"" help:"Show the running translator's mappings."`
}

type configFlag struct {
	Config string `help:"Configuration: TOML (*.toml), or the first map646's syntax." default:"/etc/map646.toml" type:"path" short:"c"`
}

type socketFlag struct {
	Socket string `help:"Control socket of the running translator." default:"/run/map646.sock" type:"path" short:"s"`
}

type runCmd struct {
	configFlag
	Verbose bool `help:"Log more." short:"v"`
}

func (c *runCmd) Run(ctx context.Context) error {
	level := slog.LevelInfo
	if c.Verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	// Before anything else: a SIGHUP that comes early must not end the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	d, err := map646.New(map646.Options{ConfigPath: c.Config, Log: log})
	if err != nil {
		return err
	}
	go func() {
		for range hup {
			_ = d.Reload() // logged, and kept for `map646 stats`
		}
	}()
	return d.Run(ctx)
}

type checkCmd struct{ configFlag }

func (c *checkCmd) Run() error {
	conf, err := map646.Load(c.Config)
	if err != nil {
		return err
	}
	fmt.Printf("%s: good: %d mappings IPv4-IPv6, %d IPv6-IPv6, prefix %v\n", c.Config,
		len(conf.Translation.Mappings), len(conf.Translation.Mappings66), conf.Translation.Pref64)
	return nil
}

type reloadCmd struct{ socketFlag }

func (c *reloadCmd) Run(ctx context.Context) error {
	var s map646.Stats
	if err := map646.Control(ctx, c.Socket, "reload", &s); err != nil {
		return err
	}
	fmt.Printf("reloaded: %d mappings IPv4-IPv6, %d IPv6-IPv6\n", s.Mappings, s.Mappings66)
	return nil
}

type statsCmd struct {
	socketFlag
	All bool `help:"Show counters that are zero, too." short:"a"`
}

func (c *statsCmd) Run(ctx context.Context) error {
	var s map646.Stats
	if err := map646.Control(ctx, c.Socket, "stats", &s); err != nil {
		return err
	}
	fmt.Printf("%-26s %s\n%-26s %d IPv4-IPv6, %d IPv6-IPv6, loaded %s\n", "device", s.Device, "mappings",
		s.Mappings, s.Mappings66, s.Loaded.Format("2006-01-02 15:04:05"))
	fmt.Printf("%-26s %d good, %d bad\n", "reloads", s.Reloads, s.ReloadErrors)
	if s.ReloadError != "" {
		fmt.Printf("%-26s %s\n", "last reload", s.ReloadError)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Packets)) {
		if n := s.Packets[name]; n > 0 || c.All {
			fmt.Printf("%-26s %d packets, %d bytes\n", name, n, s.Bytes[name])
		}
	}
	fmt.Printf("%-26s %d sent, %d withheld\n", "icmp errors", s.ICMPSent, s.ICMPLimited)
	fmt.Printf("%-26s %d\n", "failed writes", s.WriteErrors)
	for i, n := range s.QueuePackets {
		fmt.Printf("queue %-20d %d packets\n", i, n)
	}
	return nil
}

type tableCmd struct{ socketFlag }

func (c *tableCmd) Run(ctx context.Context) error {
	var t []map646.TableEntry
	if err := map646.Control(ctx, c.Socket, "table", &t); err != nil {
		return err
	}
	for _, e := range t {
		fmt.Printf("%-40s %s\n", e.Outside, e.Inside)
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k := kong.Parse(&cli{}, kong.Name("map646"), kong.UsageOnError(),
		kong.Description("A stateless translator between IPv4 and IPv6."), kong.BindTo(ctx, (*context.Context)(nil)))
	k.FatalIfErrorf(k.Run())
}
