package source_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/jpeg"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"widecloud/internal/sentry/pattern"
	"widecloud/internal/sentry/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shot is the JPEG of a test picture.
func shot(t interface{ Fatal(...any) }, number uint64) []byte {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, pattern.Draw(number, time.UnixMilli(1000), 160, 96), nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// withExif has a picture in its head, as cameras do, which must not be taken for the picture itself.
func withExif(b []byte) []byte {
	inner := []byte("Exif\x00\x00\xff\xd8\xff\xd9 a small picture \xff\xd8\xff\xda\x00\x02\xff\xd9")
	n := len(inner) + 2
	return bytes.Join([][]byte{b[:2], {0xff, 0xe1, byte(n >> 8), byte(n)}, inner, b[2:]}, nil)
}

func number(t *testing.T, f source.Frame) uint64 {
	t.Helper()
	m, err := f.Image()
	if err != nil {
		t.Fatal(err)
	}
	r, err := pattern.Read(m)
	if err != nil {
		t.Fatal(err)
	}
	return r.Number
}

// TestScanner: the whole pictures of a stream are found, whatever stands between them and whichever were cut off.
func TestScanner(t *testing.T) {
	pictures := [][]byte{shot(t, 1), withExif(shot(t, 2)), shot(t, 3)}
	rapid.Check(t, func(t *rapid.T) {
		var stream bytes.Buffer
		var want [][]byte
		for range rapid.IntRange(0, 6).Draw(t, "pictures") {
			p := pictures[rapid.IntRange(0, 2).Draw(t, "which")]
			switch rapid.IntRange(0, 3).Draw(t, "how") {
			case 0:
				fmt.Fprintf(&stream, "\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n", len(p))
			case 1:
				fmt.Fprintf(&stream, "--wrong\nContent-Length: 99999999\n\n")
			case 2: // cut off in its entropy-coded data, where most bytes are
				stream.Write(p[:rapid.IntRange(len(p)*2/3, len(p)-3).Draw(t, "cut")])
			}
			stream.Write(p)
			want = append(want, p)
		}
		s := source.NewScanner(&stream, 1<<20)
		var got [][]byte
		for {
			b, err := s.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("-sent +found:\n%s", d)
		}
	})
}

func TestScannerLimits(t *testing.T) {
	one := shot(t, 1)
	s := source.NewScanner(io.MultiReader(bytes.NewReader(one), bytes.NewReader(one[:len(one)-1])), len(one))
	if _, err := s.Next(); err != nil {
		t.Error(err)
	}
	if _, err := s.Next(); err != io.ErrUnexpectedEOF {
		t.Errorf("half a picture: %v", err)
	}
	s = source.NewScanner(bytes.NewReader(append(bytes.Clone(one), one...)), len(one)-3)
	if _, err := s.Next(); err != io.EOF || s.Skipped == 0 {
		t.Errorf("too large a picture: %v, %d are skipped", err, s.Skipped)
	}
}

// FuzzScanner: no stream gives more than it has, or a picture without its ends.
func FuzzScanner(f *testing.F) {
	f.Add(shot(f, 1))
	f.Add(withExif(shot(f, 2)))
	f.Add([]byte("\xff\xd8\xff\xd8\xff\xff\xd9\xff\xd8\xff\xda\x00\x03\x01\xff\x00\xff\xd0\xff\xd9"))
	f.Fuzz(func(t *testing.T, b []byte) {
		const most = 2000
		s := source.NewScanner(bytes.NewReader(b), most)
		total := 0
		for {
			p, err := s.Next()
			if err != nil {
				break
			}
			if total += len(p); len(p) < 4 || len(p) > most+4 || !bytes.HasPrefix(p, []byte{0xff, 0xd8}) || !bytes.HasSuffix(p, []byte{0xff, 0xd9}) {
				t.Fatalf("%x is a picture", p)
			}
		}
		if total > len(b) {
			t.Errorf("%d bytes of pictures are in a stream of %d", total, len(b))
		}
	})
}

// collect runs a source until it has given so many pictures, and gives them.
func collect(t *testing.T, s source.Source, count int) []source.Frame {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var got []source.Frame
	err := s.Run(ctx, func(f source.Frame) {
		if len(got) < count {
			got = append(got, f)
		}
		if len(got) == count {
			cancel()
		}
	})
	if len(got) < count {
		t.Fatalf("%d pictures, want %d; %v", len(got), count, err)
	}
	return got
}

func numbers(t *testing.T, frames []source.Frame) (out []uint64) {
	t.Helper()
	for _, f := range frames {
		out = append(out, number(t, f))
	}
	return out
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/multipart", func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "eye" || p != "secret" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		m := multipart.NewWriter(w)
		w.Header().Set("Content-Type", "multipart/x-mixed-replace; boundary="+m.Boundary())
		for n := uint64(1); n <= 3; n++ {
			p, err := m.CreatePart(textproto.MIMEHeader{"Content-Type": {"image/jpeg"}})
			if err == nil {
				_, err = p.Write(shot(t, n))
			}
			if err != nil {
				return
			}
		}
	})
	fetched := uint64(0)
	mux.HandleFunc("/single", func(w http.ResponseWriter, r *http.Request) {
		fetched++
		w.Header().Set("Content-Type", "image/jpeg")
		w.Write(shot(t, fetched))
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	camera := strings.Replace(s.URL, "http://", "http://eye:secret@", 1)
	if d := cmp.Diff([]uint64{1, 2, 3}, numbers(t, collect(t, source.HTTP{URL: camera + "/multipart", Every: time.Hour}, 3))); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]uint64{1, 2, 3}, numbers(t, collect(t, source.HTTP{URL: s.URL + "/single", Every: time.Millisecond}, 3))); d != "" {
		t.Error(d)
	}
	for url, want := range map[string]string{
		s.URL + "/multipart":      "401",
		s.URL + "/none":           "404",
		"http://a:secret@[::1]:1": "connection refused",
	} {
		err := source.HTTP{URL: url, Every: time.Hour}.Run(context.Background(), func(source.Frame) {})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %s", url, err, want)
		}
	}
}

func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "video")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.Write(append(shot(t, 7)[:900], shot(t, 8)...))
			f.Close()
		}
		written <- err
	}()
	if d := cmp.Diff([]uint64{8}, numbers(t, collect(t, source.Pipe{Path: path}, 1))); d != "" {
		t.Error(d)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (source.Pipe{Path: file}).Run(context.Background(), nil); err == nil || !strings.Contains(err.Error(), "named pipe") {
		t.Errorf("a file: %v", err)
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, b []byte, age time.Duration) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := (source.Directory{Path: dir, Every: time.Millisecond}).Run(context.Background(), nil); err == nil {
		t.Error("an empty directory is played")
	}
	put("b.jpg", shot(t, 2), time.Hour)
	put("a.JPEG", shot(t, 1), time.Minute)
	put("c.jpg", shot(t, 3)[:500], 2*time.Hour) // half
	put("d.txt", []byte("x"), time.Second)
	if d := cmp.Diff([]uint64{1, 2, 1, 2}, numbers(t, collect(t, source.Directory{Path: dir, Every: time.Millisecond}, 4))); d != "" {
		t.Error(d)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var got []uint64
	err := source.Directory{Path: dir, Every: time.Millisecond, Newest: true}.Run(ctx, func(f source.Frame) {
		got = append(got, number(t, f))
		if len(got) == 1 {
			put("z.jpg", shot(t, 9), 0)
		} else {
			cancel()
		}
	})
	cancel()
	if d := cmp.Diff([]uint64{1, 9}, got); d != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("%v: %s", err, d)
	}
}

func TestPattern(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		got := collect(t, source.Pattern{Width: 320, Height: 180, Every: 2 * time.Second}, 3)
		if d := cmp.Diff([]uint64{1, 2, 3}, numbers(t, got)); d != "" {
			t.Error(d)
		}
		if last := got[2].Taken.Sub(began); last != 4*time.Second {
			t.Errorf("the third is taken after %v", last)
		}
	})
}

// TestFFmpeg: the real one reads a directory's pictures as video, is gone when the source ends, and says what is wrong.
func TestFFmpeg(t *testing.T) {
	program, err := exec.LookPath("ffmpeg")
	if err != nil {
		t.Fatal("ffmpeg is not installed: scripts/deps --test")
	}
	dir := t.TempDir()
	for n := uint64(1); n <= 3; n++ {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.jpg", n)), shot(t, n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := source.FFmpeg{Program: program, Input: filepath.Join(dir, "%d.jpg"), Arguments: []string{"-framerate", "5"}, Rate: 5}
	if d := cmp.Diff([]uint64{1, 2, 3}, numbers(t, collect(t, f, 3))); d != "" {
		t.Error(d)
	}
	f.Input = filepath.Join(dir, "none")
	if err := f.Run(context.Background(), nil); err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("no file: %v", err)
	}
	f.Input = "-y"
	if err := f.Run(context.Background(), nil); err == nil {
		t.Error("an option is taken for an input")
	}
	// One that would run for ever ends with its context: else this would not return.
	f = source.FFmpeg{Program: program, Input: "testsrc=size=160x96:rate=10", Arguments: []string{"-re", "-f", "lavfi"}, Rate: 10}
	ctx, cancel := context.WithCancel(context.Background())
	if err := f.Run(ctx, func(source.Frame) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended one: %v", err)
	}
	cancel()
}

// script is a source that does what a function says, with the number of the run.
type script struct {
	run func(ctx context.Context, n int, emit func(source.Frame)) error
	n   int
}

func (s *script) Run(ctx context.Context, emit func(source.Frame)) error {
	s.n++
	return s.run(ctx, s.n, emit)
}

// TestKeep: a source that fails, ends or goes silent is begun again, after longer and longer waits.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var log []string
		say := func(format string, args ...any) {
			log = append(log, fmt.Sprintf("%v ", time.Since(began))+fmt.Sprintf(format, args...))
		}
		ctx, cancel := context.WithCancel(context.Background())
		s := &script{run: func(ctx context.Context, n int, emit func(source.Frame)) error {
			say("run %d", n)
			switch n {
			case 1, 2:
				return errors.New("no camera")
			case 3:
				emit(source.Frame{})
				time.Sleep(8 * time.Second)
				emit(source.Frame{})
				<-ctx.Done() // silent
				return ctx.Err()
			case 4:
				return nil
			}
			cancel()
			return ctx.Err()
		}}
		source.Keep(ctx, s, source.KeepOptions{Silence: 10 * time.Second, Retry: time.Second, Log: slog.New(slog.DiscardHandler),
			State: func(err error) { say("%v", err) }}, func(source.Frame) { say("picture") })
		want := []string{"0s run 1", "0s no camera", "1s run 2", "1s no camera", "3s run 3", "3s <nil>", "3s picture", "11s picture",
			"21s there was no picture for too long: 10s", "22s run 4", "22s the video has ended", "24s run 5"}
		if d := cmp.Diff(want, log); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	})
}

// TestCutter: whatever the source's rate and unevenness, stills come at the rate that was asked for, or at the source's if
// that is lower.
func TestCutter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(0.2, 10).Draw(t, "rate")
		given := rapid.Float64Range(0.2, 60).Draw(t, "source")
		if rapid.Bool().Draw(t, "same") {
			given = rate
		}
		c := source.NewCutter(rate)
		every := source.Every(given)
		now := time.Unix(1_000_000, 0)
		const pictures = 500
		taken := 0
		for i := range pictures {
			early := time.Duration(rapid.IntRange(-10, 10).Draw(t, "early")) * every / 100
			if c.Take(now.Add(time.Duration(i)*every + early)) {
				taken++
			}
		}
		seconds := float64(pictures) / given
		want := min(rate, given) * seconds
		if given > rate && given < 2*rate {
			want = given / 2 * seconds // at least: a picture comes too early, and the next one is late
		}
		if got := float64(taken); got < want*0.9-2 || got > rate*seconds*1.02+2 {
			t.Fatalf("%d stills in %.1f s from a source of %.2f a second at a rate of %.2f", taken, seconds, given, rate)
		}
	})
}

func TestFrames(t *testing.T) {
	f := source.Frame{JPEG: []byte("x")}
	if _, err := f.Image(); err == nil {
		t.Error("no JPEG is decoded")
	}
	// A picture that says that it is huge.
	b := shot(t, 1)
	i := bytes.Index(b, []byte{0xff, 0xc0})
	copy(b[i+5:], []byte{0xff, 0xff, 0xff, 0xff})
	f = source.Frame{JPEG: b}
	if _, err := f.Image(); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("65535x65535: %v", err)
	}
}
