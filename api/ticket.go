package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// TicketKind is what a ticket opens.
type TicketKind string

// What tickets open.
const (
	TicketConsole TicketKind = "console" // the serial console
	TicketDisplay TicketKind = "display"
)

// TicketRequest asks for a ticket.
type TicketRequest struct {
	Kind TicketKind `json:"kind" enum:"console,display"`
}

// Ticket opens a VM's console or display once, for whoever has it: by the query ?ticket=, or as the websocket's subprotocol
// ticket.TICKET. It is as good as its user is, and no longer than until Expires.
type Ticket struct {
	Ticket  string     `json:"ticket"`
	VM      string     `json:"vm"`
	Kind    TicketKind `json:"kind"`
	Path    string     `json:"path"` // of the websocket, with the ticket
	Expires time.Time  `json:"expires"`
}

// Ticket gives a ticket for a VM's console or display.
func (c *Client) Ticket(ctx context.Context, vm string, kind TicketKind) (*Ticket, error) {
	return call[Ticket](ctx, c, http.MethodPost, path(string(KindVM), vm, "tickets"), TicketRequest{Kind: kind})
}

// TicketPath is the path of the websocket that a ticket opens.
func TicketPath(vm string, kind TicketKind, ticket string) string {
	return path(string(KindVM), vm, string(kind)) + "?ticket=" + url.QueryEscape(ticket)
}

// Display is what a websocket client needs to attach to a VM's display: binary messages carry the bytes of RFB (RFC 6143),
// without authentication.
func (c *Client) Display(vm string) (address string, header http.Header) {
	return c.base.String() + path(string(KindVM), vm, "display"), c.header()
}
