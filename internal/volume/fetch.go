package volume

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"widecloud/api"
)

// FetchOptions bound what Fetch may reach. A source is a user's word, and the controller that fetches it can read files and
// reach services that the user cannot.
type FetchOptions struct {
	// Dirs are the directories under which a path may lie; symbolic links do not lead out of them. None: no paths.
	Dirs []string
	// Public addresses may be connected to, and those of Allow; never those of Deny, which wins. Each connection is judged,
	// after name resolution and at every redirect. Loopback, private, shared, link-local and other addresses that are not
	// public are refused, and IPv6 addresses that a translator or a tunnel turns into a refused IPv4 address.
	Allow, Deny []netip.Prefix
	Pref64      netip.Prefix // of the site's translators (RFC 6052), beside 64:ff9b::/96; the zero Prefix: none
	// Limit is the most bytes to take; 0: no limit.
	Limit int64
	// Stall is the longest wait for the next byte, the first included; 0: a minute.
	Stall time.Duration
	// Progress is told after each read how many bytes have come and how many will; total is -1 where unknown. It must be quick.
	Progress func(done, total int64)
	// Logger is told what the user is not: why a source could not be read, in the words of the server or of this machine's
	// network. nil: nobody.
	Logger *slog.Logger
}

const (
	maxRedirects = 3
	defaultStall = time.Minute
)

var errStalled = errors.New("no byte came for too long")

// Fetch opens a source: an http or https URL, or the absolute path of a regular file. It returns the number of bytes that will
// come, -1 where unknown. ctx bounds the reading, too. What the user should mend is an *api.Error, code invalid, that names
// spec.source; what may be better later has code unavailable. More bytes than the limit, and a stall, are errors of Read.
// No error has words of the server in it, nor anything of this machine's network.
func Fetch(ctx context.Context, source string, o FetchOptions) (io.ReadCloser, int64, error) {
	if o.Stall <= 0 {
		o.Stall = defaultStall
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var body io.ReadCloser
	var total int64
	var err error
	ctx, cancel := context.WithCancelCause(ctx)
	f := &fetched{ctx: ctx, cancel: cancel, o: o}
	f.timer = time.AfterFunc(o.Stall, func() { cancel(errStalled) })
	switch u, uerr := url.Parse(source); {
	case strings.HasPrefix(source, "/"):
		body, total, err = openPath(source, o.Dirs)
	case uerr == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		body, total, err = get(ctx, u, &o)
	default:
		err = api.Invalidf("spec.source", "%q is neither an http(s) URL nor an absolute path", clip(source))
	}
	f.timer.Stop()
	if err == nil && o.Limit > 0 && total > o.Limit {
		body.Close()
		err = tooLarge(o.Limit)
	}
	if err != nil {
		err = f.reason(err)
		cancel(nil)
		return nil, 0, err
	}
	f.body, f.total = body, total
	return f, total, nil
}

func openPath(path string, dirs []string) (io.ReadCloser, int64, error) {
	refused := api.Invalidf("spec.source", "%q is not a file in a directory that images may be taken from", clip(path))
	clean := filepath.Clean(path)
	for _, dir := range dirs {
		rel, err := filepath.Rel(dir, clean)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, 0, fmt.Errorf("open image directory: %w", err)
		}
		// O_NONBLOCK: opening a FIFO must not wait for its writer.
		f, err := root.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		root.Close()
		if err != nil {
			return nil, 0, refused // missing, a link that leads out, not readable: not told apart, so that nobody can ask which files exist
		}
		st, err := f.Stat()
		if err != nil || !st.Mode().IsRegular() {
			f.Close()
			return nil, 0, refused
		}
		return f, st.Size(), nil
	}
	return nil, 0, refused
}

func get(ctx context.Context, u *url.URL, o *FetchOptions) (io.ReadCloser, int64, error) {
	dialer := &net.Dialer{Timeout: 15 * time.Second, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !o.permits(ap.Addr()) {
			o.Logger.Warn("refused to fetch an image", "address", ap.Addr())
			return api.Invalidf("spec.source",
				"its address may not be fetched from (it is private, reserved or the site's own); upload the image, or ask the site's admin to permit the address")
		}
		return nil
	}}
	// No proxy: it would connect for us to addresses that nobody has judged. No transparent decompression: the
	// digest is of the bytes as they are served. One request, so no connection is kept.
	client := &http.Client{
		// With our context: net/http would go on with a connection that nobody waits for any more.
		Transport: &http.Transport{DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		}, TLSHandshakeTimeout: 15 * time.Second,
			DisableCompression: true, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return api.Invalidf("spec.source", "more than %d redirects", maxRedirects)
			}
			if r.URL.Scheme != "http" && r.URL.Scheme != "https" {
				return api.Invalidf("spec.source", "redirected to what is no http(s) URL")
			}
			if via[0].URL.Scheme == "https" && r.URL.Scheme == "http" {
				return api.Invalidf("spec.source", "redirected from https to http")
			}
			return nil
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 0, api.Invalidf("spec.source", "%v", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		e := api.Invalidf("spec.source", "the server answered %d, want %d", resp.StatusCode, http.StatusOK)
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			e.Code = api.CodeUnavailable
		}
		return nil, 0, e
	}
	return resp.Body, resp.ContentLength, nil
}

// fetched is a source being read.
type fetched struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer // runs only while a read waits: a slow consumer is not the source's stall
	o      FetchOptions
	body   io.ReadCloser
	done   int64
	total  int64
}

func (f *fetched) Read(p []byte) (int, error) {
	if f.ctx.Err() != nil {
		return 0, f.reason(f.ctx.Err())
	}
	f.timer.Reset(f.o.Stall)
	n, err := f.body.Read(p)
	f.timer.Stop()
	f.done += int64(n)
	if f.o.Limit > 0 && f.done > f.o.Limit {
		return 0, tooLarge(f.o.Limit)
	}
	if n > 0 && f.o.Progress != nil {
		f.o.Progress(f.done, f.total)
	}
	if err != nil && err != io.EOF {
		err = f.reason(err)
	}
	return n, err
}

func (f *fetched) Close() error {
	f.timer.Stop()
	f.cancel(nil)
	return f.body.Close()
}

// reason makes an error one of the API's, but for a cancellation, which stays what it is.
func (f *fetched) reason(err error) error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return e
	case context.Cause(f.ctx) == errStalled:
		return &api.Error{Code: api.CodeUnavailable, Field: "spec.source", Message: fmt.Sprintf("%v (%v)", errStalled, f.o.Stall)}
	case f.ctx.Err() != nil:
		return fmt.Errorf("fetch image: %w", context.Cause(f.ctx))
	}
	f.o.Logger.Warn("could not fetch an image", "err", err)
	return &api.Error{Code: api.CodeUnavailable, Field: "spec.source", Message: "fetch image: " + explain(err)}
}

// explain says in our words what kind an error is. Its own may be the server's (a status line, a header, a certificate's names),
// or tell a user about this machine's network (a resolver's address, where a name or a redirect leads).
func explain(err error) string {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var path *os.PathError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "the host's name does not exist"
	case errors.As(err, &dns):
		return "the host's name could not be resolved; try again later"
	case errors.As(err, &cert):
		return "the server's certificate is not valid for this host, or not from a known authority"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the server refuses connections"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "the server cannot be reached"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the server cut the transfer off"
	case errors.As(err, &path):
		return "the file could not be read"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "the server does not answer"
	}
	return "the server does not speak HTTP or TLS as it should"
}
