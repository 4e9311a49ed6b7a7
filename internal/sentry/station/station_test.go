package station_test

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/jpeg"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/station"
	"widecloud/internal/sentry/still"
)

const reference = "../../../examples/sentryc.toml"

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sentryc.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestReference: the reference configuration is read, and what is commented out in it is the default, field by field.
func TestReference(t *testing.T) {
	data, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := station.Load(reference)
	if err != nil {
		t.Fatal(err)
	}
	if ref.TLS.Listen[0] != "[::]:8443" || len(ref.Server) != 2 || len(ref.Directory) != 1 || len(ref.Caption) != 1 || len(ref.Receive.Keys) != 1 {
		t.Errorf("%+v", ref)
	}
	var plain []string
	fields := 0
	for _, line := range strings.Split(string(data), "\n") {
		if field, ok := strings.CutPrefix(line, "# "); ok && strings.Contains(field, " = ") && field[0] >= 'a' && field[0] <= 'z' && !strings.Contains(field, ".conf") {
			line = field
			fields++
		}
		plain = append(plain, line)
	}
	if fields < 15 {
		t.Fatalf("%d defaults are found", fields)
	}
	all, err := station.Load(write(t, strings.Join(plain, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	all.Receive.TCP, all.Receive.TLS = nil, nil // as empty lists
	if d := cmp.Diff(ref, all); d != "" {
		t.Error(d)
	}
	def, err := station.Load(write(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(station.Default(), def); d != "" {
		t.Error(d)
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[web]\nlisten = []", ":2: web.listen: must name"},
		{"[web]\nlisten = [\"8080\"]", `:2: web.listen: "8080" is not ADDRESS:PORT`},
		{"[web]\nmax_connections = 0", ":2: web.max_connections: is 0"},
		{"[web]\nmax_per_address = -1", ":2: web.max_per_address: is -1"},
		{"[web]\npoll_wait = \"1m\"", ":2: web.poll_wait: is 1m0s"},
		{"[web]\nhead_timeout = \"0s\"", ":2: web.head_timeout: is 0s"},
		{"[web]\nidle_timeout = \"soon\"", ":2: web.idle_timeout: "},
		{"[web]\nnat64 = [\"64:ff9b::/64\"]", ":2: web.nat64: "},
		{"[web]\ncolour = 1", ":2: web.colour: unknown field"},
		{"[tls]\nlisten = [\"[::]:443\"]", "tls.certificate: certificate and key go with"},
		{"[tls]\ncertificate = \"/c\"\nkey = \"/k\"", ":2: tls.certificate: certificate and key go with"},
		{"[receive]\ntls = [\"[::]:443\"]\nkeys = [\"/k\"]", "tls.certificate: certificate and key go with"},
		{"[receive]\ntls = [\"443\"]", ":2: receive.tls: "},
		{"[admin]\nlisten = \"x\"", ":2: admin.listen: "},
		{"[keep]\ntime = \"1s\"", ":2: keep.time: is 1s"},
		{"[keep]\nmemory = \"1MiB\"", ":2: keep.memory: is 1048576 bytes"},
		{"[keep]\nchannels = 0", ":2: keep.channels: is 0"},
		{"[[server]]\nurl = \"live.example\"\nweight = 1", ":2: server.url: "},
		{"[[server]]\nurl = \"https://live.example\"\nweight = 0", ":3: server.weight: is 0"},
		{"[receive]\nudp = [\"[::]:6460\"]", "receive.keys: must name"},
		{"[receive]\nudp = [\"x\"]\nkeys = [\"/k\"]", ":2: receive.udp: "},
		{"[receive]\nmax_age = \"0s\"", ":2: receive.max_age: "},
		{"[[directory]]\npath = \"x\"\nchannel = \"a\"", ":2: directory.path: "},
		{"[[directory]]\npath = \"/x\"\nchannel = \"../a\"", ":3: directory.channel: "},
		{"[[directory]]\npath = \"/x\"\nchannel = \"a\"\nsize = 4", ":4: directory.size: is 4"},
		{"[[directory]]\npath = \"/x\"\nchannel = \"a\"\n[[directory]]\npath = \"/y\"\nchannel = \"a\"", "directory.channel: a in size 0"},
		{"[[caption]]\nfile = \"x\"\nchannel = \"a\"", ":2: caption.file: "},
		{"[[caption]]\nfile = \"/x\"\nchannel = \"A\"", ":3: caption.channel: "},
		{"[write]\ndir = \"x\"", ":2: write.dir: "},
		{"[log]\nlevel = \"loud\"", ":2: log.level: "},
		{"[log]\nformat = \"xml\"", ":2: log.format: "},
	} {
		_, err := station.Load(write(t, c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
}

// picture is a JPEG.
func picture() []byte {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, image.NewGray(image.Rect(0, 0, 64, 36)), nil); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// get asks until the answer has a status.
func get(t *testing.T, url string, status int) string {
	t.Helper()
	for range 3000 {
		res, err := http.Get(url)
		if err == nil {
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil && res.StatusCode == status {
				return string(b)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s never answers %d", url, status)
	return ""
}

// TestStation: a still goes from a directory to viewers and into the directory for other web servers, with page, caption,
// metrics and health; then the station drains and ends.
func TestStation(t *testing.T) {
	dir := t.TempDir()
	for name, b := range map[string][]byte{"cam/1.jpg": picture(), "text": []byte("9回裏")} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	admin := free(t)
	conf, err := station.Load(write(t, `
[web]
listen = ["127.0.0.1:0"]
drain = "1s"
[admin]
listen = "`+admin+`"
[[directory]]
path = "`+dir+`/cam"
channel = "koshien"
[[caption]]
file = "`+dir+`/text"
channel = "koshien"
[write]
dir = "`+dir+`/out"
`))
	if err != nil {
		t.Fatal(err)
	}
	s, err := station.New(conf, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	url := "http://" + s.Addresses()[0].String()
	if got := get(t, url+"/stills/koshien/0/newest.jpg", 200); got != string(picture()) {
		t.Errorf("a still of %d bytes", len(got))
	}
	for !strings.Contains(get(t, url+"/stills/koshien/caption.json", 200), "9回裏") {
		time.Sleep(10 * time.Millisecond)
	}
	if got := get(t, url+"/", 200); !strings.Contains(got, `src="/stills/koshien/0/newest.jpg"`) {
		t.Errorf("page: %s", got)
	}
	if got := get(t, url+"/health", 200); got != "ok\n" {
		t.Errorf("health: %s", got)
	}
	get(t, "http://"+admin+"/health", 200)
	if got := get(t, "http://"+admin+"/metrics", 200); !strings.Contains(got, `sentryc_newest_number{channel="koshien",server="0",size="0"}`) {
		t.Errorf("metrics: %.300s", got)
	}
	for _, name := range []string{"stills/koshien/0/newest.jpg", "index.html", "index.ja.html", "koshien.js", "koshien.css"} {
		for {
			if _, err := os.Stat(filepath.Join(dir, "out", name)); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := http.Get(url + "/health"); err == nil {
		t.Error("it still serves")
	}
}

// TestFromSender: a still goes from a Sender by UDP to viewers.
func TestFromSender(t *testing.T) {
	key := cast.NewKey()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(key.Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	c := station.Default()
	c.Web.Listen, c.Web.Drain.Duration, c.Admin.Listen = []string{"127.0.0.1:0"}, 0, free(t)
	c.Receive.UDP, c.Receive.Keys, c.Receive.Name = []string{"127.0.0.1:0"}, []string{file}, "test"
	s, err := station.New(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	sender, err := cast.NewSender(cast.SenderOptions{Loss: 0.05, Log: slog.New(slog.DiscardHandler), Destinations: []cast.Destination{
		{Name: "test", Address: s.Entrances()[0].String(), Transport: cast.UDP, Key: key, Rate: cast.MaxRate}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	go func() { done <- sender.Run(ctx) }()
	url := "http://" + s.Addresses()[0].String() + "/stills/koshien/1/newest.jpg"
	now := time.Now()
	n := still.First(now)
	// The first ones may be sent before there is a socket.
	for ok := false; !ok; n++ {
		if err := sender.Send(&still.Still{Channel: "koshien", Size: 1, Number: n, Taken: now, Width: 64, Height: 36, JPEG: picture()}); err != nil {
			t.Fatal(err)
		}
		res, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if ok = res.StatusCode == 200; ok && (err != nil || !bytes.Equal(b, picture())) {
			t.Errorf("a still of %d bytes, %v", len(b), err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got := get(t, "http://"+c.Admin.Listen+"/metrics", 200); !regexp.MustCompile(`sentryc_received_stills_total\{outcome="kept"\} [1-9]`).MatchString(got) {
		t.Error("the metrics know of no still")
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
	for range 2 {
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// TestBadKey: a key that cannot be read is an error that names the field.
func TestBadKey(t *testing.T) {
	c := station.Default()
	c.Web.Listen, c.Admin.Listen, c.Receive.UDP, c.Receive.Keys = []string{"127.0.0.1:0"}, "", []string{"127.0.0.1:0"}, []string{"/nowhere"}
	if _, err := station.New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "receive.keys: ") {
		t.Errorf("%v", err)
	}
}

// TestAddressInUse: the error names the field.
func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, field := range []string{"web", "admin"} {
		c := station.Default()
		c.Web.Listen, c.Admin.Listen = []string{"127.0.0.1:0"}, ""
		if field == "web" {
			c.Web.Listen[0] = l.Addr().String()
		} else {
			c.Admin.Listen = l.Addr().String()
		}
		if _, err := station.New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), field+".listen: ") {
			t.Errorf("%v", err)
		}
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
