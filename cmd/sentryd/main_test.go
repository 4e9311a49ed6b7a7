package main

import (
	"bytes"
	"context"
	"image/jpeg"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/pattern"
	"widecloud/internal/sentry/studio"
)

// printed gives what f writes to the standard output.
func printed(t *testing.T, f func() error) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	was := os.Stdout
	os.Stdout = w
	err = f()
	os.Stdout = was
	w.Close()
	out, readErr := io.ReadAll(r)
	r.Close()
	if err != nil || readErr != nil {
		t.Fatal(err, readErr)
	}
	return string(out)
}

func TestCheck(t *testing.T) {
	c := checkCmd{configFlag{"../../examples/sentryd.toml"}}
	if out := printed(t, c.Run); !strings.Contains(out, "good: 1 channels, 3 receivers") {
		t.Error(out)
	}
	c.Config = "nowhere.toml"
	if err := c.Run(); err == nil {
		t.Error("a file that is not there is good")
	}
}

func TestKey(t *testing.T) {
	one, two := printed(t, (&keyCmd{}).Run), printed(t, (&keyCmd{}).Run)
	if one == two {
		t.Error("two keys are the same")
	}
	if _, err := cast.ParseKey(one); err != nil {
		t.Error(err)
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.jpg")
	var b bytes.Buffer
	if err := jpeg.Encode(&b, pattern.Draw(4711, time.UnixMilli(1_312_594_200_123), 320, 180), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := readCmd{From: path}
	out := printed(t, func() error { return c.Run(context.Background()) })
	if !regexp.MustCompile(`^number 4711 taken 2011-08-06T01:30:00\.123Z age \d+h\d+m\d`).MatchString(out) {
		t.Error(out)
	}
	for _, bad := range []string{filepath.Join(t.TempDir(), "none"), "main.go", "http://[::1]:1/"} {
		c.From = bad
		if err := c.Run(context.Background()); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

func TestShow(t *testing.T) {
	var b bytes.Buffer
	s := studio.State{Channels: []studio.ChannelState{{Name: "main", Stills: 9, Number: 77, Sizes: []studio.SizeState{{Width: 640, Height: 360, Bytes: 1000, Quality: 80}}}}}
	s.Destinations = []cast.DestinationState{{Name: "tokyo", Transport: cast.UDP, Stills: 8, Trouble: "no route"}}
	if err := show(&b, s); err != nil {
		t.Fatal(err)
	}
	want := `CHANNEL  STILLS  SKIPPED  BROKEN  NUMBER  SIZES               TROUBLE
main     9       0        0       77      640x360 1000 B q80  

RECEIVER  ADDRESS  VIA  SENT  SKIPPED  FAILED  DATAGRAMS  TROUBLE
tokyo              udp  8     0        0       0          no route

REPORT OF  STILLS  RECOVERED  LOST  DATAGRAMS  MISSING  FORGED  DELAY  AGE
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}
