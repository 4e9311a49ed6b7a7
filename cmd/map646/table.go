package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"widecloud/internal/map646"
)

// change sends changes: one from the arguments, or, with "-", one from each line
// of the standard input.
func change(ctx context.Context, socket, op string, first string, rest ...string) error {
	var body io.Reader = strings.NewReader(op + " " + first + " " + strings.Join(rest, " ") + "\n")
	if first == "-" {
		for _, r := range rest {
			if r != "" {
				return errors.New("with -, all comes from the standard input")
			}
		}
		r, w := io.Pipe()
		go func() {
			lines := bufio.NewScanner(os.Stdin)
			out := bufio.NewWriterSize(w, 1<<16)
			for lines.Scan() {
				// Empty lines stay, so that errors name the right one.
				if text, _, _ := strings.Cut(lines.Text(), "#"); strings.TrimSpace(text) != "" {
					fmt.Fprintf(out, "%s %s\n", op, text)
				} else {
					fmt.Fprintln(out)
				}
			}
			w.CloseWithError(errors.Join(lines.Err(), out.Flush()))
		}()
		body = r
	}
	begun := time.Now()
	var done map646.Changed
	if err := map646.Ask(ctx, socket, "change", body, &done); err != nil {
		return err
	}
	fmt.Printf("%d added, %d replaced, %d removed in %v; %d in force, until the next reload\n",
		done.Added, done.Replaced, done.Removed, time.Since(begun).Round(time.Millisecond), done.Mappings)
	return nil
}

type addCmd struct {
	socketFlag
	Outside string `arg:"" help:"Service address or prefix, or - for lines of OUTSIDE INSIDE from the standard input."`
	Inside  string `arg:"" optional:"" help:"IPv6 address or prefix of the machines."`
}

func (c *addCmd) Run(ctx context.Context) error {
	return change(ctx, c.Socket, "add", c.Outside, c.Inside)
}

type replaceCmd struct {
	socketFlag
	Outside string `arg:"" help:"Service address or prefix, or - for lines of OUTSIDE INSIDE from the standard input."`
	Inside  string `arg:"" optional:"" help:"IPv6 address or prefix of the machines."`
}

func (c *replaceCmd) Run(ctx context.Context) error {
	return change(ctx, c.Socket, "replace", c.Outside, c.Inside)
}

type removeCmd struct {
	socketFlag
	Outside string `arg:"" help:"Service address or prefix, or - for many from the standard input, one a line."`
}

func (c *removeCmd) Run(ctx context.Context) error {
	return change(ctx, c.Socket, "remove", c.Outside)
}

type reloadCmd struct{ socketFlag }

func (c *reloadCmd) Run(ctx context.Context) error {
	var s map646.Reloaded
	if err := map646.Control(ctx, c.Socket, "reload", &s); err != nil {
		return err
	}
	fmt.Printf("reloaded: %d mappings IPv4-IPv6, %d IPv6-IPv6\n", s.Mappings, s.Mappings66)
	return leftOut(s.Refused)
}

type tableCmd struct {
	socketFlag
	outputFlag
}

func (c *tableCmd) Run(ctx context.Context) error {
	var t []map646.TableEntry
	if err := map646.Control(ctx, c.Socket, "table", &t); err != nil {
		return err
	}
	if done, err := c.printed(t); done {
		return err
	}
	w := bufio.NewWriter(os.Stdout)
	for _, e := range t {
		fmt.Fprintf(w, "%-40s %-40s in %d packets %d bytes, out %d packets %d bytes\n", e.Outside, e.Inside,
			e.PacketsIn, e.BytesIn, e.PacketsOut, e.BytesOut)
	}
	return w.Flush()
}

type topCmd struct {
	socketFlag
	outputFlag
	Number   int           `help:"How many mappings." default:"20" short:"n"`
	Interval time.Duration `help:"Time between two looks; at least a second." default:"2s" short:"i"`
	Once     bool          `help:"Look twice, print once, and end."`
}

func (c *topCmd) Run(ctx context.Context) error {
	ask := func() (list []map646.Busy, err error) {
		err = map646.Ask(ctx, c.Socket, fmt.Sprintf("top?n=%d", c.Number), nil, &list)
		return list, err
	}
	// The first look only tells where the counters stand.
	if _, err := ask(); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(c.Interval, time.Second)):
		}
		list, err := ask()
		if err != nil {
			return err
		}
		if done, err := c.printed(list); done && (err != nil || c.Once) {
			return err
		} else if done {
			continue
		}
		w := bufio.NewWriter(os.Stdout)
		if !c.Once {
			fmt.Fprintf(w, "\x1b[H\x1b[2J%s  busiest %d, every %v\n", time.Now().Format("15:04:05"), c.Number, max(c.Interval, time.Second))
		}
		fmt.Fprintf(w, "%-39s %-39s %12s %12s %14s %14s\n", "OUTSIDE", "INSIDE", "PACKETS/S", "BIT/S", "PACKETS", "BYTES")
		for _, b := range list {
			fmt.Fprintf(w, "%-39s %-39s %12.0f %12s %14d %14d\n", b.Outside, b.Inside, b.PacketsPerSecond, si(8*b.BytesPerSecond),
				b.PacketsIn+b.PacketsOut, b.BytesIn+b.BytesOut)
		}
		if err := w.Flush(); err != nil || c.Once {
			return err
		}
	}
}

// si shortens a number.
func si(n float64) string {
	for _, unit := range []string{"", "k", "M", "G"} {
		if n < 1000 {
			return fmt.Sprintf("%.1f%s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.1fT", n)
}
