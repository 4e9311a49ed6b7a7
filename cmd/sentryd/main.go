// Command sentryd cuts stills out of video and sends them to sentryc servers.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/studio"
)

type cli struct {
	Run    runCmd    `cmd:"" help:"Send stills until told to stop."`
	Check  checkCmd  `cmd:"" help:"Read a configuration and say what is wrong with it."`
	Key    keyCmd    `cmd:"" help:"Print a new key, for a file that sentryd and its receivers share."`
	Status statusCmd `cmd:"" help:"Show what the running sentryd has sent, and what its receivers report."`
	Read   readCmd   `cmd:"" help:"Read number and time of a test pattern's JPEG."`
}

type configFlag struct {
	Config string `help:"Configuration (TOML)." default:"/etc/sentryd/sentryd.toml" type:"path" short:"c"`
}

type runCmd struct{ configFlag }

func (c *runCmd) Run(ctx context.Context) error {
	conf, err := studio.Load(c.Config)
	if err != nil {
		return err
	}
	s, err := studio.New(conf, conf.Log.Logger(os.Stderr))
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

type checkCmd struct{ configFlag }

func (c *checkCmd) Run() error {
	conf, err := studio.Load(c.Config)
	if err != nil {
		return err
	}
	fmt.Printf("%s: good: %d channels, %d receivers\n", c.Config, len(conf.Channel), len(conf.Receiver))
	return nil
}

type keyCmd struct{}

func (*keyCmd) Run() error {
	_, err := fmt.Println(cast.NewKey().Text())
	return err
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k := kong.Parse(&cli{}, kong.Name("sentryd"), kong.UsageOnError(),
		kong.Description("Cuts stills out of video and sends them to sentryc servers."), kong.BindTo(ctx, (*context.Context)(nil)))
	k.FatalIfErrorf(k.Run())
}
