package volume_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/volume"
)

// here permits the servers of the tests.
var here = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func TestFetch(t *testing.T) {
	content := noise(3 * mib)
	mux := http.NewServeMux()
	mux.HandleFunc("/image", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	mux.HandleFunc("/chunked", func(w http.ResponseWriter, r *http.Request) {
		w.Write(content[:mib])
		w.(http.Flusher).Flush()
		w.Write(content[mib:])
	})
	mux.HandleFunc("/gzip", func(w http.ResponseWriter, r *http.Request) {
		// A server that compresses for those who accept it: the digest is of the image, so we must not.
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			z.Write(content)
			return
		}
		w.Write(content)
	})
	mux.HandleFunc("/redirect/", func(w http.ResponseWriter, r *http.Request) {
		left := strings.TrimPrefix(r.URL.Path, "/redirect/")
		if left == "" {
			http.Redirect(w, r, "/image", http.StatusFound)
			return
		}
		http.Redirect(w, r, "/redirect/"+left[1:], http.StatusFound)
	})
	mux.HandleFunc("/to-file", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "file:///etc/passwd")
		w.WriteHeader(http.StatusFound)
	})
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "broken", http.StatusBadGateway) })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		w.Write(content[:1000])
	})
	mux.HandleFunc("/partial", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusPartialContent) })
	stop := make(chan struct{})
	mux.HandleFunc("/stall-head", func(w http.ResponseWriter, r *http.Request) { <-stop })
	mux.HandleFunc("/stall-body", func(w http.ResponseWriter, r *http.Request) {
		w.Write(content[:1000])
		w.(http.Flusher).Flush()
		<-stop
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	defer close(stop)
	tlsSrv := httptest.NewUnstartedServer(mux)
	tlsSrv.Config.ErrorLog = log.New(io.Discard, "", 0) // our refusal of its certificate
	tlsSrv.StartTLS()
	defer tlsSrv.Close()

	dir, outside := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "sub", "image.raw")
	secret := filepath.Join(outside, "secret")
	for _, err := range []error{
		os.Mkdir(filepath.Dir(file), 0o755),
		os.WriteFile(file, content, 0o644),
		os.WriteFile(secret, content, 0o644),
		os.Symlink(secret, filepath.Join(dir, "out")),
		os.Symlink(outside, filepath.Join(dir, "outdir")),
		os.Symlink("sub/image.raw", filepath.Join(dir, "in")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	unix, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	port := srv.Listener.Addr().(*net.TCPAddr).Port

	const limit = 4 * mib
	for name, tc := range map[string]struct {
		source string
		o      volume.FetchOptions
		total  int64    // when it succeeds
		code   api.Code // when it does not
	}{
		"url":                      {srv.URL + "/image", volume.FetchOptions{Allow: here}, 3 * mib, ""},
		"url in capitals":          {strings.Replace(srv.URL, "http", "HTTP", 1) + "/image", volume.FetchOptions{Allow: here}, 3 * mib, ""},
		"chunked":                  {srv.URL + "/chunked", volume.FetchOptions{Allow: here}, -1, ""},
		"server that compresses":   {srv.URL + "/gzip", volume.FetchOptions{Allow: here}, -1, ""},
		"three redirects":          {srv.URL + "/redirect/ab", volume.FetchOptions{Allow: here}, 3 * mib, ""},
		"four redirects":           {srv.URL + "/redirect/abc", volume.FetchOptions{Allow: here}, 0, api.CodeInvalid},
		"redirect to a file":       {srv.URL + "/to-file", volume.FetchOptions{Allow: here}, 0, api.CodeInvalid},
		"not found":                {srv.URL + "/nothing", volume.FetchOptions{Allow: here}, 0, api.CodeInvalid},
		"server error":             {srv.URL + "/broken", volume.FetchOptions{Allow: here}, 0, api.CodeUnavailable},
		"partial answer":           {srv.URL + "/partial", volume.FetchOptions{Allow: here}, 0, api.CodeInvalid},
		"cut off":                  {srv.URL + "/cut", volume.FetchOptions{Allow: here}, 0, api.CodeUnavailable},
		"stall before the answer":  {srv.URL + "/stall-head", volume.FetchOptions{Allow: here, Stall: 50 * time.Millisecond}, 0, api.CodeUnavailable},
		"stall in the body":        {srv.URL + "/stall-body", volume.FetchOptions{Allow: here, Stall: 50 * time.Millisecond}, 0, api.CodeUnavailable},
		"too large, said so":       {srv.URL + "/image", volume.FetchOptions{Allow: here, Limit: limit / 2}, 0, api.CodeInvalid},
		"too large, not said so":   {srv.URL + "/chunked", volume.FetchOptions{Allow: here, Limit: limit / 2}, 0, api.CodeInvalid},
		"nobody listens":           {"http://" + nobody + "/", volume.FetchOptions{Allow: here}, 0, api.CodeUnavailable},
		"certificate unknown":      {tlsSrv.URL + "/image", volume.FetchOptions{Allow: here}, 0, api.CodeUnavailable},
		"loopback":                 {srv.URL + "/image", volume.FetchOptions{}, 0, api.CodeInvalid},
		"loopback by name":         {fmt.Sprintf("http://localhost:%d/image", port), volume.FetchOptions{}, 0, api.CodeInvalid},
		"loopback mapped":          {fmt.Sprintf("http://[::ffff:127.0.0.1]:%d/image", port), volume.FetchOptions{}, 0, api.CodeInvalid},
		"unspecified":              {fmt.Sprintf("http://0.0.0.0:%d/image", port), volume.FetchOptions{}, 0, api.CodeInvalid},
		"metadata service":         {"http://169.254.169.254/latest/", volume.FetchOptions{}, 0, api.CodeInvalid},
		"scheme ftp":               {"ftp://192.0.2.1/image", volume.FetchOptions{}, 0, api.CodeInvalid},
		"scheme file":              {"file:///etc/passwd", volume.FetchOptions{Dirs: []string{"/"}}, 0, api.CodeInvalid},
		"url without host":         {"http:///image", volume.FetchOptions{}, 0, api.CodeInvalid},
		"relative path":            {"image.raw", volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"empty":                    {"", volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"file":                     {file, volume.FetchOptions{Dirs: []string{outside, dir}}, 3 * mib, ""},
		"file by a link within":    {filepath.Join(dir, "in"), volume.FetchOptions{Dirs: []string{dir}}, 3 * mib, ""},
		"file, no directory given": {file, volume.FetchOptions{}, 0, api.CodeInvalid},
		"file elsewhere":           {secret, volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"file by dots":             {dir + "/../" + filepath.Base(outside) + "/secret", volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"file of a like directory": {dir + "x/image", volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"link that leads out":      {filepath.Join(dir, "out"), volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"directory that leads out": {filepath.Join(dir, "outdir", "secret"), volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"directory":                {filepath.Join(dir, "sub"), volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"the directory itself":     {dir, volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"fifo":                     {filepath.Join(dir, "fifo"), volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"socket":                   {filepath.Join(dir, "socket"), volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"device":                   {"/dev/zero", volume.FetchOptions{Dirs: []string{"/dev"}}, 0, api.CodeInvalid},
		"missing":                  {filepath.Join(dir, "none"), volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
		"file too large":           {file, volume.FetchOptions{Dirs: []string{dir}, Limit: limit / 2}, 0, api.CodeInvalid},
		"NUL in the path":          {dir + "/a\x00b", volume.FetchOptions{Dirs: []string{dir}}, 0, api.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			var told, toldTotal int64
			tc.o.Progress = func(done, total int64) { told, toldTotal = done, total }
			r, total, err := volume.Fetch(context.Background(), tc.source, tc.o)
			var got []byte
			if err == nil {
				got, err = io.ReadAll(r)
				r.Close()
			}
			if tc.code != "" {
				if !errors.Is(err, &api.Error{Code: tc.code, Field: "spec.source"}) {
					t.Errorf("error is %v, want %s of spec.source", err, tc.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, content) || total != tc.total {
				t.Errorf("%d bytes, said to be %d", len(got), total)
			}
			if told != int64(len(content)) || toldTotal != total {
				t.Errorf("progress ended at %d of %d", told, toldTotal)
			}
		})
	}

	t.Run("cancelled in the body", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		r, _, err := volume.Fetch(ctx, srv.URL+"/stall-body", volume.FetchOptions{Allow: here})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
	})

	t.Run("into a store", func(t *testing.T) {
		d := t.TempDir()
		s := open(t, d)
		before := tree(t, d)
		r, _, err := volume.Fetch(context.Background(), srv.URL+"/cut", volume.FetchOptions{Allow: here})
		if err != nil {
			t.Fatal(err)
		}
		_, err = imported(context.Background(), s, r, volume.Import{Format: "raw"})
		r.Close()
		if !errors.Is(err, &api.Error{Code: api.CodeUnavailable, Field: "spec.source"}) {
			t.Errorf("a body that is cut off: %v", err)
		}
		if after := tree(t, d); len(after) != len(before) {
			t.Errorf("left behind: %v", after)
		}
		r, _, err = volume.Fetch(context.Background(), srv.URL+"/image", volume.FetchOptions{Allow: here})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if b, err := imported(context.Background(), s, r, volume.Import{Digest: digest(content), Format: "raw", Limit: limit}); err != nil || b.Bytes != 3*mib {
			t.Errorf("%+v, %v", b, err)
		}
	})
}
