package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/jpeg"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"widecloud/internal/sentry/pattern"
	"widecloud/internal/sentry/source"
	"widecloud/internal/sentry/studio"
)

// askTimeout is how long an answer may take.
const askTimeout = 10 * time.Second

type statusCmd struct {
	configFlag
	Output string `help:"text or json." enum:"text,json" default:"text" short:"o"`
}

func (c *statusCmd) Run(ctx context.Context) error {
	conf, err := studio.Load(c.Config)
	if err != nil {
		return err
	}
	if conf.Admin.Listen == "" {
		return errors.New("admin.listen is empty: nothing answers")
	}
	body, err := get(ctx, "http://"+conf.Admin.Listen+"/status")
	if err != nil {
		return err
	}
	defer body.Close()
	if c.Output == "json" {
		_, err := io.Copy(os.Stdout, body)
		return err
	}
	var s studio.State
	if err := json.NewDecoder(body).Decode(&s); err != nil {
		return fmt.Errorf("read the status: %w", err)
	}
	return show(os.Stdout, s)
}

// get gives the body of a good answer.
func get(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Timeout: askTimeout}).Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("%s answers %s", url, res.Status)
	}
	return res.Body, nil
}

// show prints a state for people.
func show(w io.Writer, s studio.State) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CHANNEL\tSTILLS\tSKIPPED\tBROKEN\tNUMBER\tSIZES\tTROUBLE")
	for _, c := range s.Channels {
		var sizes []string
		for _, z := range c.Sizes {
			sizes = append(sizes, fmt.Sprintf("%dx%d %d B q%d", z.Width, z.Height, z.Bytes, z.Quality))
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", c.Name, c.Stills, c.Skipped, c.Broken, c.Number, strings.Join(sizes, ", "), c.Trouble)
	}
	fmt.Fprintln(t, "\nRECEIVER\tADDRESS\tVIA\tSENT\tSKIPPED\tFAILED\tDATAGRAMS\tTROUBLE")
	for _, d := range s.Destinations {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", d.Name, d.Address, d.Transport, d.Stills, d.Skipped, d.Failed, d.Datagrams, d.Trouble)
	}
	fmt.Fprintln(t, "\nREPORT OF\tSTILLS\tRECOVERED\tLOST\tDATAGRAMS\tMISSING\tFORGED\tDELAY\tAGE")
	for _, r := range s.Receivers {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%v\t%v\n", r.Name, r.Stills, r.Recovered, r.Lost, r.Arrived, r.Missing, r.Forged,
			r.Delay.Round(time.Millisecond), time.Since(r.Heard).Round(time.Second))
	}
	return t.Flush()
}

type readCmd struct {
	From string `arg:"" help:"A file, an http:// or https:// URL, or - for the standard input."`
}

func (c *readCmd) Run(ctx context.Context) error {
	in := io.NopCloser(os.Stdin)
	var err error
	switch {
	case c.From == "-":
	case strings.HasPrefix(c.From, "http://"), strings.HasPrefix(c.From, "https://"):
		in, err = get(ctx, c.From)
	default:
		in, err = os.Open(c.From)
	}
	if err != nil {
		return err
	}
	defer in.Close()
	m, err := jpeg.Decode(io.LimitReader(in, source.MaxJPEG))
	if err != nil {
		return fmt.Errorf("decode %s: %w", c.From, err)
	}
	r, err := pattern.Read(m)
	if err != nil {
		return fmt.Errorf("%s: %w", c.From, err)
	}
	fmt.Printf("number %d taken %s age %v\n", r.Number, r.Taken.Format("2006-01-02T15:04:05.000Z07:00"), time.Since(r.Taken).Round(time.Millisecond))
	return nil
}
