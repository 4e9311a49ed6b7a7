package studio_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/jpeg"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"

	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/pattern"
	"widecloud/internal/sentry/still"
	"widecloud/internal/sentry/studio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// begin runs until the test ends.
func begin(t *testing.T, all ...func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, f := range all {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait(); http.DefaultClient.CloseIdleConnections() })
}

// ask asks the operators' port.
func ask(t *testing.T, s *studio.Studio, path string) (status int, body string) {
	t.Helper()
	res, err := http.Get("http://" + s.Admin().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// load makes a configuration of text, with a key and receiver in it.
func load(t *testing.T, text string) (*studio.Config, cast.Key) {
	t.Helper()
	dir := t.TempDir()
	k := cast.NewKey()
	keyFile, path := filepath.Join(dir, "key"), filepath.Join(dir, "sentryd.toml")
	for name, b := range map[string]string{keyFile: k.Text(), path: strings.ReplaceAll(text, "KEY", keyFile)} {
		if err := os.WriteFile(name, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := studio.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return c, k
}

// TestStudio: a test pattern is cut, scaled, sent over a real socket and put together, in all sizes with one number, and
// can be read; operators see what happens.
func TestStudio(t *testing.T) {
	conn, err := cast.ListenUDP("[::1]:0", "")
	if err != nil {
		t.Fatal(err)
	}
	c, k := load(t, fmt.Sprintf(`
[channel.main]
source = "pattern"
rate = 10
sizes = [{ width = 640, height = 360, bytes = "20KiB" }, { width = 320, height = 180, bytes = "6KiB" }]
[channel.gone]
source = "directory"
input = "/nonexistent"
[receiver.here]
address = %q
key_file = "KEY"
[admin]
listen = "[::1]:0"
`, conn.LocalAddr()))
	got := make(chan *still.Still, 1000)
	r, err := cast.NewReceiver(cast.ReceiverOptions{Name: "tokyo", Keys: []cast.Key{k}, ReportEvery: 10 * time.Millisecond, Deliver: func(s *still.Still) {
		select {
		case got <- s:
		default: // the test has seen enough
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := studio.New(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	begin(t, s.Run, r.Run, func(ctx context.Context) error { return r.Serve(ctx, conn) })
	sizes := map[uint64][]*still.Still{}
	last := pattern.Reading{}
	for pairs := 0; pairs < 3; {
		st := <-got
		if st.Channel != "main" {
			t.Fatalf("a still of %s", st.Channel)
		}
		m, err := jpeg.Decode(bytes.NewReader(st.JPEG))
		if err != nil {
			t.Fatal(err)
		}
		read, err := pattern.Read(m)
		if err != nil {
			t.Fatal(err)
		}
		if m.Bounds().Dx() != st.Width || len(st.JPEG) > []int{20 << 10, 6 << 10}[st.Size] || st.Width != []int{640, 320}[st.Size] {
			t.Errorf("size %d: %dx%d, %d bytes", st.Size, st.Width, st.Height, len(st.JPEG))
		}
		if read.Number < last.Number || !read.Taken.Equal(st.Taken.Truncate(time.Millisecond)) {
			t.Errorf("the picture says %+v after %+v, the still was taken at %v", read, last, st.Taken)
		}
		last = read
		sizes[st.Number] = append(sizes[st.Number], st)
		if pair := sizes[st.Number]; len(pair) == 2 {
			pairs++
			if pair[0].Size != 1 || pair[1].Size != 0 || !pair[0].Taken.Equal(pair[1].Taken) {
				t.Errorf("a pair: %+v and %+v", *pair[0], *pair[1])
			}
		}
	}
	var state studio.State
	for len(state.Receivers) == 0 || state.Receivers[0].Stills == 0 || state.Channels[0].Trouble == "" {
		_, body := ask(t, s, "/status")
		state = studio.State{}
		if err := json.Unmarshal([]byte(body), &state); err != nil {
			t.Fatal(err)
		}
	}
	gone, main := state.Channels[0], state.Channels[1]
	if main.Name != "main" || main.Stills < 3 || main.Broken != 0 || main.Trouble != "" || main.Sizes[1].Width != 320 || main.Sizes[1].Quality == 0 {
		t.Errorf("%+v", main)
	}
	if gone.Stills != 0 || !strings.Contains(gone.Trouble, "no such file") {
		t.Errorf("%+v", gone)
	}
	if d := state.Destinations[0]; d.Name != "here" || d.Stills == 0 || d.Trouble != "" {
		t.Errorf("%+v", d)
	}
	if status, body := ask(t, s, "/health"); status != 503 || !strings.Contains(body, "channel gone: ") {
		t.Errorf("health: %d %s", status, body)
	}
	_, metrics := ask(t, s, "/metrics")
	for _, want := range []string{`sentryd_source_up{channel="gone"} 0`, `sentryd_source_up{channel="main"} 1`, `sentryd_receiver_up{receiver="here"} 1`,
		`sentryd_reported_stills_total{fate="lost",name="tokyo"} 0`, `sentryd_still_bytes{channel="main",size="1"} `} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in\n%s", want, metrics)
		}
	}
	if problems, err := promlint.New(strings.NewReader(metrics)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

// TestNew: what a configuration names and is not there, is an error that says so.
func TestNew(t *testing.T) {
	const text = "[channel.main]\nsource = 'pattern'\n[receiver.a]\naddress = '[::1]:9'\nkey_file = 'KEY'\nadmin.listen = ''\n"
	c, _ := load(t, strings.Replace(text, "admin.listen = ''\n", "[admin]\nlisten = ''\n", 1))
	r := c.Receiver["a"]
	for _, change := range []struct {
		what string
		set  func()
		want string
	}{
		{"key", func() { x := r; x.KeyFile = "/nonexistent"; c.Receiver["a"] = x }, "receiver.a: read a key"},
		{"ca", func() { x := r; x.Transport, x.CA = "tls", "/nonexistent"; c.Receiver["a"] = x }, "receiver.a: ca: "},
		{"no certificate", func() { x := r; x.Transport, x.CA = "tls", r.KeyFile; c.Receiver["a"] = x }, "has no certificate"},
		{"port", func() { c.Receiver["a"] = r; c.Admin.Listen = "[2001:db8::1]:1" }, "admin.listen: "},
	} {
		change.set()
		if _, err := studio.New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), change.want) {
			t.Errorf("%s: %v", change.what, err)
		}
	}
}
