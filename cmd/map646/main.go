// Command map646 is a stateless translator between IPv4 and IPv6, and between
// IPv6 service addresses and the machines behind them.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/alecthomas/kong"

	"widecloud/internal/map646"
)

type cli struct {
	Run     runCmd     `cmd:"" help:"Translate until told to stop. SIGHUP reloads, SIGUSR2 upgrades."`
	Check   checkCmd   `cmd:"" help:"Read a configuration and say what is wrong with it."`
	Doctor  doctorCmd  `cmd:"" help:"Say what this machine can do for a translator, and what is in its way."`
	Reload  reloadCmd  `cmd:"" help:"Have the running translator read its configuration again."`
	Add     addCmd     `cmd:"" help:"Add a mapping to the running translator, until its next reload."`
	Replace replaceCmd `cmd:"" help:"Give a mapped outside address another inside address, until the next reload."`
	Remove  removeCmd  `cmd:"" help:"Remove a mapping, until the next reload."`
	Stats   statsCmd   `cmd:"" help:"Show what the running translator has counted."`
	Table   tableCmd   `cmd:"" help:"Show the running translator's mappings, and what each has carried."`
	Top     topCmd     `cmd:"" help:"Show the busiest mappings."`
	Trace   traceCmd   `cmd:"" help:"Say, rule by rule, what would become of a packet or of an address's packets."`
	Drain   drainCmd   `cmd:"" help:"Withdraw the service prefixes from routing; what still comes is translated."`
	Health  healthCmd  `cmd:"" help:"Say whether the translator should be used; exit code 1 if not."`
	Fast    fastCmd    `cmd:"" help:"Turn the path through the kernel on or off, or show it."`
	Upgrade upgradeCmd `cmd:"" help:"Replace the running program by a new one without losing a packet."`
}

type configFlag struct {
	Config string `help:"Configuration: TOML (*.toml), or the first map646's syntax." default:"/etc/map646.toml" type:"path" short:"c"`
}

type socketFlag struct {
	Socket string `help:"Control socket of the running translator." default:"/run/map646.sock" type:"path" short:"s"`
}

type outputFlag struct {
	Output string `help:"text or json." enum:"text,json" default:"text" short:"o"`
}

// printed tells whether v was to be JSON, and has been printed.
func (f outputFlag) printed(v any) (bool, error) {
	if f.Output != "json" {
		return false, nil
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return true, e.Encode(v)
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
	o := map646.Options{ConfigPath: c.Config, Log: log, Handover: os.Getenv(map646.HandoverEnv), Args: os.Args[1:]}
	if how := os.Getenv(map646.StandInEnv); how != "" {
		// It belongs to the process that it stands in for, which ends it by a pipe.
		signal.Ignore(syscall.SIGHUP, syscall.SIGUSR2)
		return map646.StandIn(o, how)
	}
	// Before anything else: a SIGHUP that comes early must not end the process.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR2)
	d, err := map646.New(o)
	if err != nil {
		return err
	}
	go func() {
		for s := range signals {
			if s == syscall.SIGHUP {
				_ = d.Reload() // logged, and kept for `map646 stats`
			} else {
				_ = d.Upgrade(ctx, "") // logged
			}
		}
	}()
	// A queue keeps a processor while it waits (netio.TUNQueue).
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + d.Queues())
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
	return leftOut(conf.Refused)
}

// leftOut lists the refused lines of the mappings file; that there are some is an error.
func leftOut(lines []map646.RefusedLine) error {
	for _, r := range lines {
		fmt.Fprintln(os.Stderr, r)
	}
	if len(lines) > 0 {
		return fmt.Errorf("%d lines of the mappings file are left out", len(lines))
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
