package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Client speaks to one site's controller. It may be used concurrently. What a controller refuses comes as *Error; what
// keeps it from being reached comes as the error of net/http, wrapped, or as CodeUnavailable.
//
// A Client trusts its controller no further than it must. It follows no redirect: the token goes to the host of its URL
// alone. It takes answers of at most 64 MiB, lists of at most 200,000 objects, and events of at most 16 MiB. It waits 30 s for
// an answer to begin and for each next piece of it; a watch may be silent for a minute. An upload takes as long as it needs,
// if it does not stop for two minutes, and its answer may take ten. Contexts end a call sooner.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// NewClient makes a client of the controller at base (http://HOST:PORT or https://…), with a user's token. h may be nil
// for http.DefaultClient; it must have no Timeout, which would end watches: use contexts. Its CheckRedirect is not used.
func NewClient(base, token string, h *http.Client) (*Client, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return nil, fmt.Errorf("parse the controller's URL: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("the controller's URL %q is not of the form http://HOST:PORT or https://HOST:PORT", base)
	case u.User != nil:
		return nil, errors.New("the controller's URL has a password in it; use a token")
	}
	if h == nil {
		h = http.DefaultClient
	}
	own := *h
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: u, token: token, http: &own}, nil
}

// HTTP is the client's way to its controller, for what is not in this package, such as the websocket of a console. It
// follows no redirects.
func (c *Client) HTTP() *http.Client { return c.http }

// object ties a noun's struct to its pointer, which is the Object.
type object[T any] interface {
	*T
	Object
}

func kindOf[T any, P object[T]]() Kind { return P(new(T)).Kind() }

func path(parts ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, p := range parts {
		b.WriteString("/" + url.PathEscape(p))
	}
	return b.String()
}

// Get reads an object: api.Get[api.VM](ctx, c, "web1").
func Get[T any, P object[T]](ctx context.Context, c *Client, name string) (*T, error) {
	return call[T](ctx, c, http.MethodGet, path(string(kindOf[T, P]()), name), nil)
}

// Create makes an object and gives it as it was accepted. It is repeated when its answer is lost on the way, and takes effect once.
func Create[T any, P object[T]](ctx context.Context, c *Client, o *T) (*T, error) {
	n := new(T)
	if err := c.postOnce(ctx, path(string(kindOf[T, P]())), o, n); err != nil {
		return nil, err
	}
	return n, nil
}

// Update replaces the object's Spec. With a Revision, CodeConflict tells that it is no longer the newest.
func Update[T any, P object[T]](ctx context.Context, c *Client, o *T) (*T, error) {
	return call[T](ctx, c, http.MethodPut, path(string(kindOf[T, P]()), P(o).Metadata().Name), o)
}

// Edit reads an object, lets edit change its Spec, and writes it, again when somebody else wrote in between. An error of
// edit ends it.
func Edit[T any, P object[T]](ctx context.Context, c *Client, name string, edit func(*T) error) (*T, error) {
	for attempt := 0; ; attempt++ {
		o, err := Get[T, P](ctx, c, name)
		if err != nil {
			return nil, err
		}
		if err := edit(o); err != nil {
			return nil, err
		}
		n, err := Update[T, P](ctx, c, o)
		if attempt < 10 && errors.Is(err, &Error{Code: CodeConflict}) {
			// The conflict may be about the object's state, not its revision; then reading again tells nothing new.
			if now, gerr := Get[T, P](ctx, c, name); gerr == nil && P(now).Metadata().Revision != P(o).Metadata().Revision {
				continue
			}
		}
		return n, err
	}
}

// Delete asks for the object's end. The object that it gives shows Deleting; it is gone when Get says CodeNotFound.
func Delete[T any, P object[T]](ctx context.Context, c *Client, name string) (*T, error) {
	return call[T](ctx, c, http.MethodDelete, path(string(kindOf[T, P]()), name), nil)
}

// Migrate starts a migration to SITE or SITE/HOST; CodeRefused has all reasons why not. It is repeated as Create is.
func (c *Client) Migrate(ctx context.Context, vm, target string) (*Job, error) {
	var r MigrateResult
	if err := c.postOnce(ctx, path(string(KindVM), vm, "migrate"), MigrateRequest{Target: target}, &r); err != nil {
		return nil, err
	}
	return r.Job, nil
}

// MigrateDryRun gives the reasons why a migration would be refused; none: it would be accepted.
func (c *Client) MigrateDryRun(ctx context.Context, vm, target string) ([]Reason, error) {
	r, err := call[MigrateResult](ctx, c, http.MethodPost, path(string(KindVM), vm, "migrate"), MigrateRequest{Target: target, DryRun: true})
	if err != nil {
		return nil, err
	}
	return r.Reasons, nil
}

// Why gives the reasons why a VM is not at a site (SITE or SITE/HOST), or, with an empty one, where it is and why.
func (c *Client) Why(ctx context.Context, vm, not string) ([]Reason, error) {
	p := path(string(KindVM), vm, "why")
	if not != "" {
		p += "?not=" + url.QueryEscape(not)
	}
	r, err := call[WhyResult](ctx, c, http.MethodGet, p, nil)
	if err != nil {
		return nil, err
	}
	return r.Reasons, nil
}

// Reboot asks the guest to reboot (ACPI), or with hard resets it.
func (c *Client) Reboot(ctx context.Context, vm string, hard bool) error {
	return c.do(ctx, http.MethodPost, path(string(KindVM), vm, "reboot"), RebootRequest{Hard: hard}, nil)
}

// Rename gives a VM another name. Everything else of it stays, its hostname among that.
func (c *Client) Rename(ctx context.Context, vm, name string) (*VM, error) {
	return call[VM](ctx, c, http.MethodPost, path(string(KindVM), vm, "rename"), RenameRequest{Name: name})
}

// Console is what a websocket client needs to attach to a VM's serial console: binary messages carry its bytes.
func (c *Client) Console(vm string) (address string, header http.Header) {
	return c.base.String() + path(string(KindVM), vm, "console"), c.header()
}

// DryRun says what the creation of a VM would come to: what it would be refused with, where the VM would go, and what it would take.
func (c *Client) DryRun(ctx context.Context, v *VM) (*VMDryRun, error) {
	return call[VMDryRun](ctx, c, http.MethodPost, path(string(KindVM), "dry-run"), v)
}

// Bulk starts a job that does one thing to many VMs. It is repeated as Create is.
func (c *Client) Bulk(ctx context.Context, r BulkRequest) (*Job, error) {
	j := new(Job)
	if err := c.postOnce(ctx, path("bulk"), r, j); err != nil {
		return nil, err
	}
	return j, nil
}

// BulkResults are what became of each VM of a bulk job so far, in the order of their names.
func (c *Client) BulkResults(ctx context.Context, job string) ([]BulkResult, error) {
	r, err := call[BulkResults](ctx, c, http.MethodGet, path(string(KindJob), job, "results"), nil)
	if err != nil {
		return nil, err
	}
	return r.Items, nil
}

// Cancel asks for a job's end; it undoes what it did.
func (c *Client) Cancel(ctx context.Context, job string) (*Job, error) {
	return call[Job](ctx, c, http.MethodPost, path(string(KindJob), job, "cancel"), nil)
}

// Upload sends the content of an image that was created without a source. bytes is its length, or -1 if not known.
func (c *Client) Upload(ctx context.Context, image string, content io.Reader, bytes int64) (*Image, error) {
	r, err := c.request(ctx, http.MethodPut, path(string(KindImage), image, "content"), content)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Header.Set("Expect", "100-continue") // a refusal comes before the content goes out
	if bytes >= 0 {
		r.ContentLength = bytes
	}
	i := new(Image)
	return i, c.sendUpload(r, i)
}

// JoinToken makes a one-time token with which the agent of a host enrols.
func (c *Client) JoinToken(ctx context.Context, host string, roles []HostRole) (string, error) {
	t, err := call[Token](ctx, c, http.MethodPost, path(string(KindHost), "join-tokens"), JoinTokenRequest{Host: host, Roles: roles})
	if err != nil {
		return "", err
	}
	return t.Token, nil
}

// PeerInvite makes a one-time invitation for the admin of another site.
func (c *Client) PeerInvite(ctx context.Context) (string, error) {
	i, err := call[Invitation](ctx, c, http.MethodPost, path(string(KindPeer), "invitations"), nil)
	if err != nil {
		return "", err
	}
	return i.Invitation, nil
}

// PeerAdd accepts another site's invitation.
func (c *Client) PeerAdd(ctx context.Context, invitation string) (*Peer, error) {
	return call[Peer](ctx, c, http.MethodPost, path(string(KindPeer)), Invitation{Invitation: invitation})
}

// Borrow asks a peer for an amount under one of its offers.
func (c *Client) Borrow(ctx context.Context, lender, offer string, amount Resources) (*Loan, error) {
	return call[Loan](ctx, c, http.MethodPost, path(string(KindLoan)), LoanRequest{Lender: lender, Offer: offer, Amount: amount})
}

// Reclaim takes a loan back: the lender's word.
func (c *Client) Reclaim(ctx context.Context, loan string) (*Loan, error) {
	return call[Loan](ctx, c, http.MethodPost, path(string(KindLoan), loan, "reclaim"), nil)
}

// Return gives a loan back: the borrower's word.
func (c *Client) Return(ctx context.Context, loan string) (*Loan, error) {
	return call[Loan](ctx, c, http.MethodPost, path(string(KindLoan), loan, "return"), nil)
}

// call makes a request and decodes its answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (*T, error) {
	v := new(T)
	if err := c.do(ctx, method, path, body, v); err != nil {
		return nil, err
	}
	return v, nil
}

func (c *Client) do(ctx context.Context, method, path string, body, into any) error {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		reader = bytes.NewReader(b)
	}
	r, err := c.request(ctx, method, path, reader)
	if err != nil {
		return err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return c.send(r, into)
}

func (c *Client) header() http.Header {
	h := http.Header{}
	if c.token != "" {
		h.Set("Authorization", "Bearer "+c.token)
	}
	return h
}

func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.base.String(), "/")+path, body)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	r.Header = c.header()
	r.Header.Set("Accept", "application/json")
	return r, nil
}

// send makes the request; into may be nil. It gives *Error for what the controller says.
func (c *Client) send(r *http.Request, into any) error {
	p := newPatience(r.Context(), answerTime, "the controller has not answered within %v")
	defer p.end()
	return c.exchange(r, p, into)
}

// sendUpload is send for a request whose body takes its time.
func (c *Client) sendUpload(r *http.Request, into any) error {
	p := newPatience(r.Context(), uploadStall, uploadStopped)
	defer p.end()
	r.Body = io.NopCloser(&sentReader{r: r.Body, p: p, left: r.ContentLength})
	return c.exchange(r, p, into)
}

func (c *Client) exchange(r *http.Request, p *patience, into any) error {
	resp, err := c.http.Do(r.WithContext(p.ctx))
	if err != nil {
		return p.explain(fmt.Errorf("call the controller: %w", err))
	}
	defer resp.Body.Close()
	resp.Body = &awaitedBody{resp.Body, p, answerTime}
	if resp.StatusCode >= 300 {
		return p.explain(AnswerError(resp))
	}
	if into == nil || resp.StatusCode == http.StatusNoContent {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // so that the connection is used again
		return nil
	}
	if err := json.NewDecoder(&boundedReader{r: resp.Body, left: maxAnswer}).Decode(into); err != nil {
		return p.explain(fmt.Errorf("decode the answer of %s %s: %w", r.Method, r.URL.Path, err))
	}
	return nil
}

// AnswerError reads the Error of an answer that is not what was asked for; what is not one comes from something between.
func AnswerError(resp *http.Response) error {
	if to := resp.Header.Get("Location"); resp.StatusCode < 400 && to != "" {
		if u, err := resp.Location(); err == nil {
			to = u.Redacted()
		}
		return Errorf(CodeInternal, "the answer is not a controller's: it leads to %s (%s), where the token does not go; use that URL if it is the controller's", to, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		return fmt.Errorf("read the controller's error (%s): %w", resp.Status, err)
	}
	var e Error
	if json.Unmarshal(b, &e) == nil && e.Code != "" {
		return &e
	}
	code := CodeInternal
	if resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout {
		code = CodeUnavailable
	}
	text := strings.TrimSpace(string(b[:min(len(b), 1000)]))
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return Errorf(code, "the answer is not a controller's: %s: %s", resp.Status, text)
}
