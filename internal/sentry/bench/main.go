package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// plan is how large a run is.
type plan struct {
	Rounds   int
	Sample   time.Duration
	Clients  int // connections of a sample
	Bytes    int // of a still
	Held     int // connections that are held for their memory
	Pollers  int // that ask once a second, each on a connection of its own
	Rotating int // that ask once a second, in turns on as many connections as are held
	Polling  time.Duration
	Waiting  int // long polls
	Stills   int // that they are given
}

var full = plan{Rounds: 5, Sample: 3 * time.Second, Clients: 64, Bytes: 30_000, Held: 15_000, Pollers: 10_000, Rotating: 50_000, Polling: 20 * time.Second, Waiting: 1000, Stills: 100}

var quick = plan{Rounds: 1, Sample: time.Second, Clients: 16, Bytes: 30_000, Held: 500, Pollers: 200, Rotating: 1000, Polling: 3 * time.Second, Waiting: 100, Stills: 10}

func main() {
	if err := realMain(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func realMain() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	role := flag.String("role", "", "what this process does in a benchmark that runs already: server, nethttp")
	small := flag.Bool("quick", false, "a look, not a figure")
	only := flag.String("only", "", "requests, held, pollers, rotation or waiting: this part alone")
	bytes := flag.Int("bytes", full.Bytes, "length of a still")
	pollers := flag.Int("pollers", full.Pollers, "connections that ask once a second")
	turns := flag.Int("rotating", full.Rotating, "viewers that ask once a second, in turns on the connections that are held")
	held := flag.Int("held", full.Held, "connections that are held for their memory")
	flag.Parse()
	if *role != "" {
		return serve(ctx, *role, *bytes)
	}
	p := full
	p.Bytes, p.Pollers, p.Rotating, p.Held = *bytes, *pollers, *turns, *held
	if *small {
		p = quick
	}
	if p.Bytes < 1000 || p.Bytes > 1<<20 || min(p.Pollers, p.Rotating, p.Held) < 1 {
		return errors.New("-bytes is not between 1000 and 1048576, or -pollers, -rotating or -held is not 1 or more")
	}
	for _, part := range []struct {
		name string
		do   func(context.Context, plan) error
	}{{"requests", requests}, {"held", holding}, {"pollers", polling}, {"rotation", rotating}, {"waiting", waiting}} {
		if *only == "" || *only == part.name {
			if err := part.do(ctx, p); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
	}
	return nil
}

func figure(name string, value float64, unit string) {
	fmt.Printf("figure %s %.4g %s\n", name, value, unit)
}

func ratio(name string, value float64) { fmt.Printf("ratio %s %.3f\n", name, value) }
