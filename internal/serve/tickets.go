package serve

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"widecloud/api"
)

const (
	ticketTime     = 30 * time.Second
	ticketPrefix   = "wct_"
	ticketProtocol = "ticket." // before a ticket that comes as a websocket's subprotocol (RFC 6455 §1.9)
	ticketsOfUser  = 16        // that are not used yet, as many as consoles may be open
	ticketsOfAll   = 4096
)

// ticket is the right to open one console or display once.
type ticket struct {
	by      caller
	vm, uid string
	kind    api.TicketKind
	expires time.Time
}

// tickets are those that are not used yet, by the hash of their text. They end with the process.
type tickets struct {
	mu   sync.Mutex
	open map[[sha256.Size]byte]ticket
}

// add keeps a new ticket and gives its text.
func (ts *tickets) add(t ticket, now time.Time) (string, error) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	text := ticketPrefix + base64.RawURLEncoding.EncodeToString(secret)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	own := 0
	for key, other := range ts.open {
		switch {
		case now.After(other.expires):
			delete(ts.open, key)
		case other.by.User == t.by.User:
			own++
		}
	}
	if own >= ticketsOfUser {
		return "", errorBody{header: retryIn(ticketTime), apiError: api.Errorf(api.CodeTooMany,
			"user %s has %d tickets that are not used: use one, or wait until they expire, %v after they were made", t.by.User, own, ticketTime)}
	}
	if len(ts.open) >= ticketsOfAll {
		return "", errorBody{header: retryIn(ticketTime), apiError: api.Errorf(api.CodeTooMany,
			"all users together have %d tickets that are not used: wait until some expire, %v after they were made", len(ts.open), ticketTime)}
	}
	if ts.open == nil {
		ts.open = map[[sha256.Size]byte]ticket{}
	}
	ts.open[sha256.Sum256([]byte(text))] = t
	return text, nil
}

// take gives a ticket by its text, this once.
func (ts *tickets) take(text string, now time.Time) (ticket, bool) {
	key := sha256.Sum256([]byte(text))
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t, known := ts.open[key]
	delete(ts.open, key)
	return t, known && !now.After(t.expires)
}

// ticketOf is the ticket that comes with a request for a console or display.
func ticketOf(route string, r *http.Request) string {
	if limitOf(route, r) != limitConsoles {
		return ""
	}
	if text := r.URL.Query().Get("ticket"); text != "" {
		return text
	}
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			if text, ok := strings.CutPrefix(strings.TrimSpace(p), ticketProtocol); ok {
				return text
			}
		}
	}
	return ""
}

// redeem finds out who opens a console by a ticket: who made it, if that one's token is what it was.
func (s *Server) redeem(r *http.Request, text string) (caller, error) {
	now := time.Now()
	source := sourceOf(r.RemoteAddr)
	if wait := s.logins.wait(source, text, now); wait > 0 {
		s.metrics.refused("logins")
		return caller{}, errorBody{header: retryIn(wait),
			apiError: api.Errorf(api.CodeTooMany, "too many tokens from %s were wrong: try again in %v", source, wait.Round(time.Second))}
	}
	t, ok := s.tickets.take(text, now)
	if !ok {
		s.logins.failed(source, text, now)
		s.metrics.ticket("", "refused")
		return caller{}, api.Errorf(api.CodeUnauthenticated, "the ticket is not good: it is for one use within %v", ticketTime)
	}
	p, err := s.o.Controller.Authenticate(r.Context(), t.by.token)
	if err == nil && p != t.by.Principal {
		err = api.Errorf(api.CodeUnauthenticated, "the ticket is not good: its user has other rights now")
	}
	if err != nil {
		s.metrics.ticket(t.kind, "refused")
		return caller{}, err
	}
	c := t.by
	c.ticket = &t
	return c, nil
}

// admits judges what a ticket is used for. A caller without one may ask for anything.
func (s *Server) admits(ctx context.Context, vm string, kind api.TicketKind) error {
	c := callerOf(ctx)
	if c.ticket == nil {
		return nil
	}
	if c.ticket.vm != vm || c.ticket.kind != kind {
		s.metrics.ticket(c.ticket.kind, "refused")
		return api.Errorf(api.CodeForbidden, "the ticket is for the %s of VM %s", c.ticket.kind, c.ticket.vm)
	}
	o, err := s.o.Controller.Get(ctx, c.Principal, api.KindVM, vm)
	if err == nil && o.Metadata().UID != c.ticket.uid {
		err = api.Errorf(api.CodeForbidden, "the ticket is for another VM, which was called %s", vm)
	}
	if err != nil {
		s.metrics.ticket(kind, "refused")
		return err
	}
	s.metrics.ticket(kind, "used")
	return nil
}

// registerTickets makes the path of tickets.
func (s *Server) registerTickets(h huma.API) {
	type createTicket struct {
		Name string `path:"name" doc:"the VM's name"`
		Body api.TicketRequest
	}
	op := s.operation("create-ticket", http.MethodPost, "/v1/vms/{name}/tickets", "vms", "Make a ticket that opens a VM's console or display once")
	op.Description = "It is good for 30 s, without other credentials: as ?ticket=TICKET, or as the websocket's subprotocol ticket.TICKET beside binary."
	op.DefaultStatus = http.StatusCreated
	huma.Register(h, op, func(ctx context.Context, in *createTicket) (*output[*api.Ticket], error) {
		t, err := s.newTicket(ctx, in.Name, in.Body.Kind)
		return result(s, ctx, t, err)
	})
}

func (s *Server) newTicket(ctx context.Context, vm string, kind api.TicketKind) (*api.Ticket, error) {
	if kind != api.TicketConsole && kind != api.TicketDisplay {
		return nil, api.Invalidf("kind", "%.60q is neither console nor display", kind)
	}
	c := callerOf(ctx)
	o, err := s.o.Controller.Get(ctx, c.Principal, api.KindVM, vm)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := ticket{by: c, vm: vm, uid: o.Metadata().UID, kind: kind, expires: now.Add(ticketTime)}
	text, err := s.tickets.add(t, now)
	var refused errorBody
	if errors.As(err, &refused) {
		s.metrics.refused("tickets")
	}
	if err != nil {
		return nil, err
	}
	s.metrics.ticket(kind, "made")
	return &api.Ticket{Ticket: text, VM: vm, Kind: kind, Path: api.TicketPath(vm, kind, text), Expires: t.expires.UTC().Truncate(time.Second)}, nil
}
