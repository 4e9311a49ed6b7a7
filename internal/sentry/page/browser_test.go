package page_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// browser is a Chromium, spoken with by the DevTools protocol: the few calls that the tests need, over the websocket
// library that the module has already. A library for all of the protocol would be larger than everything that it tests.
type browser struct {
	t   *testing.T
	ctx context.Context
	c   *websocket.Conn
	id  int
}

// open starts a Chromium for the test, with an empty page.
func open(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not installed (scripts/deps --test)")
	}
	dir := t.TempDir()
	cmd := exec.Command(path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
		"--disable-background-networking", "--disable-component-update", "--lang=en", "--remote-debugging-port=0", "--user-data-dir="+dir, "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+dir)
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		// Its children may write for a moment still.
		for range 100 {
			if os.RemoveAll(filepath.Join(dir, "Default")) == nil && os.RemoveAll(dir) == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	address := ""
	lines := bufio.NewScanner(errs)
	for address == "" && lines.Scan() {
		if _, a, ok := strings.Cut(lines.Text(), "DevTools listening on ws://"); ok {
			address, _, _ = strings.Cut(a, "/")
		}
	}
	if address == "" {
		t.Fatal("chromium does not say where it listens")
	}
	go func() {
		for lines.Scan() {
		}
	}()
	res, err := http.Get("http://" + address + "/json/list")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var pages []struct{ Type, WebSocketDebuggerURL string }
	if err := json.NewDecoder(res.Body).Decode(&pages); err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		if p.Type == "page" {
			c, _, err := websocket.Dial(ctx, p.WebSocketDebuggerURL, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.SetReadLimit(64 << 20)
			b := &browser{t: t, ctx: ctx, c: c}
			b.call("Page.enable", nil)
			b.call("Runtime.enable", nil)
			return b
		}
	}
	t.Fatal("chromium has no page")
	return nil
}

// call calls a method of the protocol and gives its result. What the page logs as an error fails the test.
func (b *browser) call(method string, params any) json.RawMessage {
	b.t.Helper()
	b.id++
	req, err := json.Marshal(map[string]any{"id": b.id, "method": method, "params": params})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.c.Write(b.ctx, websocket.MessageText, req); err != nil {
		b.t.Fatal(err)
	}
	for {
		_, data, err := b.c.Read(b.ctx)
		if err != nil {
			b.t.Fatal(err)
		}
		var m struct {
			ID     int
			Method string
			Params json.RawMessage
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(data, &m); err != nil {
			b.t.Fatal(err)
		}
		switch {
		case m.Method == "Runtime.exceptionThrown":
			b.t.Errorf("the page's script: %s", m.Params)
		case m.ID == b.id && m.Error != nil:
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		case m.ID == b.id:
			return m.Result
		}
	}
}

// eval gives the value of a script's expression as text.
func (b *browser) eval(js string) string {
	b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	if err := json.Unmarshal(b.call("Runtime.evaluate", map[string]any{"expression": "String(" + js + ")", "awaitPromise": true, "userGesture": true}), &r); err != nil {
		b.t.Fatal(err)
	}
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", js, r.ExceptionDetails)
	}
	return fmt.Sprint(r.Result.Value)
}

// until waits until an expression is true.
func (b *browser) until(js string) {
	b.t.Helper()
	for range 600 {
		if b.eval(js) == "true" {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.t.Fatalf("never true: %s; the page's state: %s", js, b.eval("JSON.stringify([document.readyState, document.documentElement.dataset, document.body.innerText])"))
}

// visit goes to a page of a screen's width and height, in CSS pixels.
func (b *browser) visit(url string, width, height int) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
	b.call("Page.navigate", map[string]any{"url": url})
	b.until("document.readyState === 'complete' && location.href !== 'about:blank'")
}

// press presses and releases a key.
func (b *browser) press(key string) {
	b.t.Helper()
	text := ""
	if len(key) == 1 {
		text = key
	}
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": key, "text": text})
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key})
}

// picture is a PNG of what is seen.
func (b *browser) picture() []byte {
	b.t.Helper()
	var r struct{ Data string }
	if err := json.Unmarshal(b.call("Page.captureScreenshot", map[string]any{"format": "png"}), &r); err != nil {
		b.t.Fatal(err)
	}
	png, err := base64.StdEncoding.DecodeString(r.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	return png
}
