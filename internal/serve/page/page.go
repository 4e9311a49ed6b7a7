// Package page is the web page of a site: files that a browser loads once, and that then live by the site's API alone.
//
// The sources are in web at the module's root; scripts/page builds them into dist, which is kept with the sources, so
// that building wcc needs no Node.
//
// Invariants:
//   - A browser loads nothing from anywhere else, and runs no script and applies no style that is not one of these files.
//   - The page's own paths are the browser's business: whatever names no file is answered with the page.
//   - No file depends on who asks.
package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed all:dist
var dist embed.FS

// policy is what a browser may do with the page (Content Security Policy Level 3).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; " +
	"manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// index is the file that is the page.
const index = "index.html"

// file is a file, ready to be sent.
type file struct {
	kind         string
	etag         string
	plain, small []byte // small: gzip, nil if that is not smaller
}

// Handler serves the page.
func Handler() (http.Handler, error) {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		return nil, err
	}
	return Of(files)
}

// Of serves the page that some files are. The error says what they lack.
func Of(files fs.FS) (http.Handler, error) {
	all := map[string]file{}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		all["/"+name], err = ready(name, b)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the web page: %w", err)
	}
	if _, ok := all["/"+index]; !ok {
		return nil, fmt.Errorf("the web page has no %s", index)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, all) }), nil
}

// ready makes a file ready to be sent.
func ready(name string, b []byte) (file, error) {
	sum := sha256.Sum256(b)
	f := file{kind: mime.TypeByExtension(path.Ext(name)), etag: `"` + hex.EncodeToString(sum[:12]) + `"`, plain: b}
	if f.kind == "" {
		f.kind = http.DetectContentType(b)
	}
	var small bytes.Buffer
	z, err := gzip.NewWriterLevel(&small, gzip.BestCompression)
	if err != nil {
		return f, err
	}
	if _, err := z.Write(b); err != nil {
		return f, err
	}
	if err := z.Close(); err != nil {
		return f, err
	}
	if small.Len() < len(b) {
		f.small = small.Bytes()
	}
	return f, nil
}

func serve(w http.ResponseWriter, r *http.Request, all map[string]file) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "this is the web page: GET it", http.StatusMethodNotAllowed)
		return
	}
	f, ok := all[r.URL.Path]
	switch {
	case ok && strings.HasPrefix(r.URL.Path, "/assets/"): // its name changes with what is in it
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	case strings.HasPrefix(r.URL.Path, "/assets/"):
		http.NotFound(w, r)
		return
	default:
		h.Set("Cache-Control", "no-cache")
	}
	if !ok {
		f = all["/"+index]
	}
	body := f.plain
	h.Add("Vary", "Accept-Encoding")
	h.Set("Content-Type", f.kind)
	etag := f.etag
	if f.small != nil && acceptsGzip(r) {
		body, etag = f.small, strings.TrimSuffix(etag, `"`)+`-gzip"`
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // a client that went away is no error of ours
	}
}

// acceptsGzip tells whether the client takes gzip (RFC 9110 §12.5.3).
func acceptsGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, weight, _ := strings.Cut(strings.TrimSpace(coding), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			q, err := strconv.ParseFloat(strings.TrimPrefix(strings.ReplaceAll(weight, " ", ""), "q="), 64)
			return weight == "" || err == nil && q > 0
		}
	}
	return false
}
