package vm

import (
	"context"
	"errors"
	"fmt"
	"image"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"widecloud/api"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/rfb"
)

// lookTime is how long one look at a display may take.
const lookTime = 20 * time.Second

func parseDisplay(p *script.Parser) any {
	at := p.Peek()
	e := &eventually{VM: ref(p)}
	e.VM.Owner.MustBeReal(p, at, "its guests have no display")
	p.OneOf("display")
	if p.OneOf("shows", "none") == "shows" {
		e.judge = shows
	} else {
		e.judge = noDisplay
	}
	e.Within = p.Within(time.Minute)
	return e
}

// shows looks at the display as the web page does, by a ticket, which then opens it no second time.
func shows(ctx context.Context, _ *stage.Stage, v *VM) (string, error) {
	t, err := v.client().Ticket(ctx, v.name, api.TicketDisplay)
	if err != nil {
		return "", err
	}
	picture, err := v.look(ctx, t)
	if err != nil {
		return "", err
	}
	if rfb.Black(picture) {
		return "", fmt.Errorf("the display of vm %s is black", v.name)
	}
	if _, err := v.look(ctx, t); !errors.Is(err, &api.Error{Code: api.CodeUnauthenticated}) {
		return "", fmt.Errorf("a ticket that was used: %w", errors.Join(err, errors.New("it was not refused")))
	}
	return fmt.Sprintf("%d x %d pixels", picture.Rect.Dx(), picture.Rect.Dy()), nil
}

// look gives what the display shows now.
func (v *VM) look(ctx context.Context, t *api.Ticket) (*image.RGBA, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	ws, err := v.openDisplay(ctx, "?ticket="+t.Ticket, nil)
	if err != nil {
		return nil, err
	}
	defer ws.CloseNow()
	return rfb.Capture(websocket.NetConn(ctx, ws, websocket.MessageBinary))
}

// openDisplay opens the display's websocket; the error is the controller's own.
func (v *VM) openDisplay(ctx context.Context, query string, header http.Header) (*websocket.Conn, error) {
	address, _ := v.client().Display(v.name)
	ws, resp, err := websocket.Dial(ctx, address+query, &websocket.DialOptions{HTTPClient: v.client().HTTP(), HTTPHeader: header})
	if err != nil && resp != nil && resp.StatusCode >= http.StatusMultipleChoices {
		err = api.AnswerError(resp)
	}
	return ws, err
}

// noDisplay asks for the display of a VM that runs and has none.
func noDisplay(ctx context.Context, _ *stage.Stage, v *VM) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	_, header := v.client().Display(v.name)
	ws, err := v.openDisplay(ctx, "", header)
	if err == nil {
		ws.CloseNow()
		return "", fmt.Errorf("vm %s has a display", v.name)
	}
	if !errors.Is(err, &api.Error{Code: api.CodeRefused}) {
		return "", err
	}
	return "refused: " + err.Error(), nil
}
