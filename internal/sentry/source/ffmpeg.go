package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// killAfter is how long ffmpeg may take to end when it is asked to.
const killAfter = 2 * time.Second

// FFmpeg has ffmpeg read its input: RTSP, HLS, a capture card, a file. It ends with the source.
type FFmpeg struct {
	Program   string   // "ffmpeg"
	Input     string   // as after -i
	Arguments []string // before -i, such as -f v4l2, -re or -rtsp_transport tcp
	Rate      float64  // pictures a second that ffmpeg gives
}

// Check tells whether the input could be taken for an option.
func (f FFmpeg) Check() error {
	if f.Input == "" || strings.HasPrefix(f.Input, "-") {
		return fmt.Errorf("%q cannot be an input of ffmpeg", f.Input)
	}
	return nil
}

// Run is Source's.
func (f FFmpeg) Run(ctx context.Context, emit func(Frame)) error {
	if err := f.Check(); err != nil {
		return err
	}
	args := append([]string{"-nostdin", "-hide_banner", "-loglevel", "error"}, f.Arguments...)
	args = append(args, "-i", f.Input, "-an", "-sn", "-dn", "-vf", fmt.Sprintf("fps=%g", f.Rate), "-c:v", "mjpeg", "-q:v", "2", "-f", "mjpeg", "pipe:1")
	cmd := exec.CommandContext(ctx, f.Program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}                                // a Ctrl-C at a terminal is not for it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) } // with what it has started
	cmd.WaitDelay = killAfter
	said := &tail{max: 2000}
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run ffmpeg: %w", err)
	}
	scanErr := scan(out, emit)
	if scanErr != nil {
		// Nothing reads its output any more, so it would never end.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended by itself
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if text := f.withoutPassword(said.String()); text != "" {
		return fmt.Errorf("ffmpeg says: %s", text)
	}
	return errors.Join(scanErr, err)
}

// withoutPassword replaces the input by one without its password, in what goes to logs.
func (f FFmpeg) withoutPassword(text string) string {
	u, err := url.Parse(f.Input)
	if err != nil || u.User == nil {
		return text
	}
	return strings.ReplaceAll(text, f.Input, u.Redacted())
}

// tail keeps the end of what is written, on one line.
type tail struct {
	max int
	b   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-t.max):]
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.Join(bytes.Fields(t.b), []byte(" "))) }
