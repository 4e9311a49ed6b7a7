// Command sentryc hands out stills of live pictures to thousands of viewers.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"widecloud/internal/sentry/station"
)

type cli struct {
	Run   runCmd   `cmd:"" help:"Take stills and serve them until told to stop; then drain."`
	Check checkCmd `cmd:"" help:"Read a configuration and say what is wrong with it."`
}

type configFlag struct {
	Config string `help:"Configuration (TOML)." default:"/etc/sentryc/sentryc.toml" type:"path" short:"c"`
}

type runCmd struct{ configFlag }

func (c *runCmd) Run(ctx context.Context) error {
	conf, err := station.Load(c.Config)
	if err != nil {
		return err
	}
	s, err := station.New(conf, conf.Log.Logger(os.Stderr))
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

type checkCmd struct{ configFlag }

func (c *checkCmd) Run() error {
	conf, err := station.Load(c.Config)
	if err != nil {
		return err
	}
	fmt.Printf("%s: good: at most %d connections and %d MiB of stills\n", c.Config, conf.Web.MaxConnections, conf.Keep.Memory>>20)
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k := kong.Parse(&cli{}, kong.Name("sentryc"), kong.UsageOnError(),
		kong.Description("Hands out stills of live pictures."), kong.BindTo(ctx, (*context.Context)(nil)))
	k.FatalIfErrorf(k.Run())
}
