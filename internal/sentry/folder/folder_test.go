package folder_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/sentry/folder"
	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

// clock is a time that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newReel() (*reel.Reel, *clock) {
	c := &clock{now: time.Unix(1_300_000_000, 0)}
	return reel.New(reel.Options{Keep: 10 * time.Second, MaxBytes: 32 << 20, MaxChannels: 4, Now: c.Now}), c
}

// picture is a JPEG that says n.
func picture(n int) []byte {
	img := image.NewGray(image.Rect(0, 0, 64, 36))
	for i := range img.Pix {
		img.Pix[i] = uint8(i * n)
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func add(t *testing.T, r *reel.Reel, c *clock, n int) {
	t.Helper()
	if err := r.Add(still.Still{Channel: "a", Number: uint64(n), Taken: c.Now(), Width: 64, Height: 36, JPEG: picture(n)}); err != nil {
		t.Fatal(err)
	}
	c.move(time.Second)
}

// files are the names below a directory.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func TestWriter(t *testing.T) {
	r, c := newReel()
	dir := filepath.Join(t.TempDir(), "koshien")
	w, err := folder.NewWriter(folder.WriterOptions{Dir: dir, Reel: r, Every: time.Hour, Log: slog.New(slog.DiscardHandler),
		Files: func(channels []string) map[string][]byte {
			return map[string][]byte{"index.html": fmt.Append(nil, channels)}
		}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(); err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(dir, "stills", "a", "0", "mine.jpg")
	for n := 1; n <= 30; n++ {
		add(t, r, c, n)
		if err := w.Write(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "stills/a/0/newest.jpg"))
		if err != nil || !bytes.Equal(got, picture(n)) {
			t.Fatalf("newest of %d: %d bytes, %v", n, len(got), err)
		}
		if n == 1 {
			if err := os.WriteFile(mine, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	// 30 was added at 29 s: 19 s and later are kept, which are 20 to 30.
	want := []string{"index.html"}
	for n := 20; n <= 30; n++ {
		want = append(want, fmt.Sprintf("stills/a/0/%d.jpg", n))
	}
	want = append(want, "stills/a/0/mine.jpg", "stills/a/0/newest.jpg")
	if d := cmp.Diff(want, files(t, dir)); d != "" {
		t.Error(d)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "index.html")); err != nil || string(b) != "[a]" {
		t.Errorf("index.html: %s, %v", b, err)
	}
}

// TestNoHalfStill: who reads while it is written sees a whole still, each time.
func TestNoHalfStill(t *testing.T) {
	r, c := newReel()
	dir := t.TempDir()
	w, err := folder.NewWriter(folder.WriterOptions{Dir: dir, Reel: r, Every: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	add(t, r, c, 1)
	if err := w.Write(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for reads := 0; ; reads++ {
			b, err := os.ReadFile(filepath.Join(dir, "stills/a/0/newest.jpg"))
			if err != nil || !bytes.HasPrefix(b, []byte{0xff, 0xd8}) || !bytes.HasSuffix(b, []byte{0xff, 0xd9}) {
				t.Errorf("read %d: %d bytes, %v", reads, len(b), err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for n := 2; n < 300; n++ {
		add(t, r, c, n)
		if err := w.Write(); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	wg.Wait()
}

func TestSource(t *testing.T) {
	r, _ := newReel()
	dir := t.TempDir()
	s := folder.NewSource(folder.SourceOptions{Dir: dir, Channel: "cam", Size: 1, Every: time.Hour, Reel: r, Log: slog.New(slog.DiscardHandler)})
	put := func(name string, b []byte, at int64) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Unix(at, 0), time.Unix(at, 0)); err != nil {
			t.Fatal(err)
		}
	}
	last := uint64(0)
	for _, x := range []struct {
		what string
		do   func()
		want []byte // the newest after it
		bad  string // a part of the error
	}{
		{"nothing", func() {}, nil, ""},
		{"one", func() { put("a.jpg", picture(1), 1_300_000_000) }, picture(1), ""},
		{"the same again", func() {}, picture(1), ""},
		{"changed", func() { put("a.jpg", picture(2), 1_300_000_001) }, picture(2), ""},
		{"two at once: the newer", func() { put("b.JPEG", picture(4), 1_300_000_003); put("c.jpg", picture(3), 1_300_000_002) }, picture(4), ""},
		{"half", func() { put("d.jpg", picture(5)[:50], 1_300_000_004) }, picture(4), ""},
		{"the whole of it", func() { put("d.jpg", picture(5), 1_300_000_004) }, picture(5), ""},
		{"another kind", func() { put("e.png", picture(6), 1_300_000_005) }, picture(5), ""},
		{"hidden", func() { put(".f.jpg", picture(6), 1_300_000_005) }, picture(5), ""},
		{"no JPEG", func() { put("g.jpg", []byte("no\xff\xd9"), 1_300_000_006) }, picture(5), "g.jpg"},
		{"after it", func() { os.Remove(filepath.Join(dir, "g.jpg")); put("h.jpg", picture(7), 1_300_000_006) }, picture(7), ""},
		{"a link", func() { os.Symlink("/etc/passwd", filepath.Join(dir, "i.jpg")) }, picture(7), ""},
		{"too large", func() { put("j.jpg", make([]byte, still.MaxBytes+1), 1_300_000_007) }, picture(7), "j.jpg"},
	} {
		x.do()
		err := s.Take()
		if (err != nil) != (x.bad != "") || err != nil && !strings.Contains(err.Error(), x.bad) {
			t.Errorf("%s: %v", x.what, err)
		}
		f := r.Newest("cam", 1)
		switch {
		case x.want == nil && f != nil:
			t.Errorf("%s: there is a still", x.what)
		case x.want != nil && (f == nil || !bytes.Equal(f.JPEG, x.want) || f.Width != 64 || f.Height != 36):
			t.Errorf("%s: another still", x.what)
		case f != nil && f.Number < last:
			t.Errorf("%s: number %d follows %d", x.what, f.Number, last)
		case f != nil:
			last = f.Number
		}
	}
}

func TestCaptions(t *testing.T) {
	r, c := newReel()
	add(t, r, c, 1)
	file := filepath.Join(t.TempDir(), "caption.txt")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error)
	go func() {
		done <- folder.Captions(ctx, folder.CaptionOptions{File: file, Channel: "a", Every: time.Millisecond, Reel: r, Log: slog.New(slog.DiscardHandler), Now: c.Now})
	}()
	// Another one has just been there: the file's comes as soon as the clock permits.
	if err := r.AddCaption("a", reel.Caption{Text: "by hand", From: c.Now().Add(time.Second)}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ file, text, alt string }{{"1回表 0-0", "1回表 0-0", ""}, {"1回裏 0-1\n投手は\n山田\n", "1回裏 0-1", "投手は\n山田"}, {"", "", ""}} {
		c.move(time.Second)
		if err := os.WriteFile(file, []byte(x.file), 0o644); err != nil {
			t.Fatal(err)
		}
		for {
			got, ok := r.Caption("a", c.Now())
			if ok && got.Text == x.text && got.Alt == x.alt {
				break
			}
			time.Sleep(time.Millisecond)
			c.move(time.Millisecond) // a file that is read while it is written gives a caption that is not whole before
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestServedByOthers: Debian's nginx and Apache serve what a Writer writes, by the example configurations.
func TestServedByOthers(t *testing.T) {
	for _, x := range []struct {
		name, program, example string
		config                 func(dir, example string) string
		args                   func(dir string) []string
	}{
		{"nginx", "nginx", "koshien-nginx.conf",
			func(dir, example string) string {
				return "daemon off;\nerror_log " + dir + "/error.log;\npid " + dir + "/pid;\nuser root;\nevents {}\nhttp {\n" +
					"types { text/html html; image/jpeg jpg; text/javascript js; text/css css; }\naccess_log off;\n" + temp(dir) + example + "}\n"
			},
			func(dir string) []string { return []string{"-e", dir + "/error.log", "-c", dir + "/server.conf"} }},
		{"apache", "apache2", "koshien-apache.conf",
			func(dir, example string) string {
				m := "/usr/lib/apache2/modules/mod_"
				text := "ServerName localhost\nServerRoot " + dir + "\nPidFile " + dir + "/pid\nErrorLog " + dir + "/error.log\nTypesConfig /etc/mime.types\nMutex posixsem\n"
				for _, name := range []string{"mpm_event", "authz_core", "mime", "headers", "dir"} {
					text += "LoadModule " + name + "_module " + m + name + ".so\n"
				}
				return text + "Listen " + listen + "\n" + example
			},
			func(dir string) []string { return []string{"-D", "FOREGROUND", "-f", dir + "/server.conf"} }},
	} {
		t.Run(x.name, func(t *testing.T) {
			program, err := exec.LookPath(x.program)
			if err != nil {
				t.Fatalf("%s is not installed (scripts/deps --test)", x.program)
			}
			example, err := os.ReadFile("../../../examples/" + x.example)
			if err != nil {
				t.Fatal(err)
			}
			r, c := newReel()
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			w, err := folder.NewWriter(folder.WriterOptions{Dir: dir + "/koshien", Reel: r, Every: time.Hour, Log: slog.New(slog.DiscardHandler),
				Files: func([]string) map[string][]byte {
					return map[string][]byte{"index.html": []byte("<title>koshien</title>"), "koshien.js": []byte("1")}
				}})
			if err != nil {
				t.Fatal(err)
			}
			add(t, r, c, 1)
			if err := w.Write(); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dir+"/koshien/stills/a/0/.2.jpg.part", []byte("half"), 0o644); err != nil {
				t.Fatal(err)
			}
			text := strings.NewReplacer("/run/koshien", dir+"/koshien", "[::]:80 ipv6only=off", listen, "*:80", listen).Replace(x.config(dir, string(example)))
			address := free(t)
			text = strings.ReplaceAll(text, listen, address)
			if err := os.WriteFile(dir+"/server.conf", []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, x.args(dir)...)
			cmd.Env = append(os.Environ(), "APACHE_RUN_DIR="+dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Signal(os.Interrupt)
				_ = cmd.Wait() // it says that it was interrupted
			})
			get := func(path, match string) (*http.Response, []byte) {
				t.Helper()
				req, err := http.NewRequest("GET", "http://"+address+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if match != "" {
					req.Header.Set("If-None-Match", match)
				}
				for try := 0; ; try++ {
					res, err := http.DefaultClient.Do(req)
					if err == nil {
						b, err := io.ReadAll(res.Body)
						res.Body.Close()
						if err != nil {
							t.Fatal(err)
						}
						return res, b
					}
					if try == 1000 {
						logged, _ := os.ReadFile(dir + "/error.log")
						t.Fatalf("%s does not answer: %v\n%s", x.name, err, logged)
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
			res, body := get("/stills/a/0/newest.jpg?after=0", "")
			etag := res.Header.Get("ETag")
			if res.StatusCode != 200 || !bytes.Equal(body, picture(1)) || res.Header.Get("Content-Type") != "image/jpeg" || etag == "" || strings.HasPrefix(etag, "W/") ||
				res.Header.Get("Cache-Control") != "public, max-age=1" {
				t.Errorf("newest: %s, %d bytes, %v", res.Status, len(body), res.Header)
			}
			if res, body := get("/stills/a/0/newest.jpg", etag); res.StatusCode != 304 || len(body) > 0 {
				t.Errorf("not changed: %s", res.Status)
			}
			add(t, r, c, 2)
			if err := w.Write(); err != nil {
				t.Fatal(err)
			}
			if res, body := get("/stills/a/0/newest.jpg", etag); res.StatusCode != 200 || !bytes.Equal(body, picture(2)) {
				t.Errorf("the next one: %s, %d bytes", res.Status, len(body))
			}
			if res, body := get("/stills/a/0/1.jpg", ""); res.StatusCode != 200 || !bytes.Equal(body, picture(1)) || !strings.Contains(res.Header.Get("Cache-Control"), "immutable") {
				t.Errorf("by number: %s, %v", res.Status, res.Header)
			}
			if res, body := get("/", ""); res.StatusCode != 200 || string(body) != "<title>koshien</title>" || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
				t.Errorf("page: %s %q %v", res.Status, body, res.Header)
			}
			for _, path := range []string{"/stills/a/0/.2.jpg.part", "/stills/", "/stills/a/0/", "/server.conf", "/stills/a/0/9.jpg", "/stills/a/0/mine.txt"} {
				if res, _ := get(path, ""); res.StatusCode != 404 && res.StatusCode != 403 {
					t.Errorf("%s: %s", path, res.Status)
				}
			}
		})
	}
}

// listen stands for the address in a configuration.
const listen = "LISTEN"

// temp keeps nginx out of the directories of the machine's own one.
func temp(dir string) (s string) {
	for _, name := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		s += name + "_temp_path " + dir + "/" + name + ";\n"
	}
	return s
}

// free is an address that nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
