package play_test

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"widecloud/internal/lab/stage"
)

// TestConsole talks to the guest over its serial line with the real client: where it is at home, and at a lender, from
// where the bytes go over two controllers.
func TestConsole(t *testing.T) {
	w := newWorld(t)
	id := w.ask(http.MethodGet, "/boot")
	for _, at := range []string{"alpha", "beta"} {
		if at != "alpha" {
			w.move(at)
		}
		w.settled(at)
		w.console(at, id)
	}
}

// console asks the guest for its boot id and leaves with Ctrl-].
func (w *world) console(at, id string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	c := w.fed.Controller("alpha").Command(ctx, stage.NodeBin+"/wcc", "vm", "console", "web")
	c.Env = append(c.Env, "WCC_SERVER=http://[::1]:7646", "WCC_TOKEN="+w.fed.Token("alpha"))
	var said bytes.Buffer
	c.Stderr = &said
	in, err := c.StdinPipe()
	must(w.T, err)
	out, err := c.StdoutPipe()
	must(w.T, err)
	must(w.T, c.Start())
	_, err = in.Write([]byte("uptime\n"))
	must(w.T, err)
	var text strings.Builder
	b := make([]byte, 4096)
	for !strings.Contains(text.String(), "boot id "+id) {
		n, err := out.Read(b)
		text.Write(b[:n])
		if err != nil {
			c.Wait()
			w.Fatalf("console of the guest at %s: %v; it gave %q and said %q", at, err, text.String(), said.String())
		}
	}
	w.Logf("at %s: %q", at, text.String())
	_, err = in.Write([]byte{0x1d})
	must(w.T, err)
	if err := c.Wait(); err != nil {
		w.Errorf("the client, left with Ctrl-]: %v: %s", err, said.String())
	}
}
