package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"widecloud/internal/lab/machine"
)

// labName is the lab that a command is about.
type labName struct {
	Lab string `name:"name" help:"Name of the lab." default:"lab"`
}

func (n labName) look() (*machine.Picture, error) { return machine.Look("", n.Lab) }

type labStatusCmd struct{ labName }

func (c *labStatusCmd) Run(a *app) error {
	p, err := c.look()
	if err != nil {
		return err
	}
	for _, m := range p.Machines {
		state := strings.Join(slices.Compact(slices.Clone(m.Processes)), " ")
		if m.PID == 0 {
			state = "off"
		}
		if err := a.out.printf("%-20s %s\n", m.Name, state); err != nil {
			return err
		}
	}
	for _, d := range p.Doors {
		if err := a.out.printf("%s: http://%s/ (token %s)\n", d.Name, d.Address, d.Secret); err != nil {
			return err
		}
	}
	return nil
}

type labShellCmd struct {
	Machine string   `arg:"" complete:"machines" help:"A machine as wcc lab status shows it, or as scripts have it: tokyo/h1, or tokyo for its controller's, where wcc is set up."`
	Command []string `arg:"" optional:"" passthrough:"" help:"What to run instead of a shell."`
	labName
}

// Run gives the terminal to the shell: this program becomes it.
func (c *labShellCmd) Run(*app) error {
	p, err := c.look()
	if err != nil {
		return err
	}
	m, err := p.Machine(c.Machine)
	if err != nil {
		return usageError{err}
	}
	if m.PID == 0 {
		return fmt.Errorf("%s is off", m.Name)
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("%w (Debian: util-linux)", err)
	}
	command := c.Command
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		command = []string{"/bin/bash"}
	}
	env := append(os.Environ(), "HOME=/root", "WIDECLOUD_LAB="+c.Lab, "WIDECLOUD_NODE="+m.Name)
	// The controller's machine has what wcc needs in its .bashrc.
	return syscall.Exec(nsenter, append([]string{"nsenter", "-t", fmt.Sprint(m.PID), "-a", "/bin/sh", "-c",
		`cd /root && if [ -r .bashrc ]; then . ./.bashrc; fi; exec "$@"`, "sh"}, command...), env)
}

type labLogsCmd struct {
	Machine string `arg:"" complete:"machines" help:"A machine; all of its processes, or with MACHINE.PROCESS one of them."`
	Follow  bool   `short:"f" help:"Go on as more is written."`
	Lines   int    `short:"n" default:"20" help:"So many of the last lines of each."`
	labName
}

// Run becomes tail, which does all of that.
func (c *labLogsCmd) Run(*app) error {
	p, err := c.look()
	if err != nil {
		return err
	}
	name, process, one := strings.Cut(c.Machine, ".")
	m, err := p.Machine(name)
	if err != nil {
		return usageError{err}
	}
	if !one {
		process = "*"
	}
	files, err := filepath.Glob(filepath.Join(p.LogDir, m.Name+"."+process+".log"))
	if err != nil || len(files) == 0 {
		return usageError{fmt.Errorf("no log of %s in %s", c.Machine, p.LogDir)}
	}
	tail, err := exec.LookPath("tail")
	if err != nil {
		return err
	}
	args := []string{"tail", "-n", fmt.Sprint(c.Lines)}
	if c.Follow {
		args = append(args, "-F")
	}
	return syscall.Exec(tail, append(append(args, "--"), files...), os.Environ())
}

type labCaptureCmd struct {
	Link  string        `arg:"" help:"MACHINE/DEVICE, as tokyo-r/w-osaka; wcc lab graph --links shows them."`
	Out   string        `short:"o" type:"path" placeholder:"FILE" help:"Where to write; the standard output if not said, for: wcc lab capture LINK | tcpdump -r -"`
	For   time.Duration `placeholder:"TIME" help:"End after that time; otherwise with Ctrl-C."`
	Count int           `short:"c" placeholder:"N" help:"End after so many frames."`
	labName
}

func (c *labCaptureCmd) Run(a *app) error {
	p, err := c.look()
	if err != nil {
		return err
	}
	i := strings.LastIndexByte(c.Link, '/')
	if i < 0 {
		return usageError{fmt.Errorf("%q is not MACHINE/DEVICE", c.Link)}
	}
	m, err := p.Machine(c.Link[:i])
	if err != nil {
		return usageError{err}
	}
	f, err := p.Capture(m.Name, c.Link[i+1:])
	if err != nil {
		return err
	}
	defer f.Close()
	out := a.out.raw
	if c.Out != "" {
		file, err := os.Create(c.Out)
		if err != nil {
			return err
		}
		defer file.Close()
		out = file
	} else if isTerminal(out) {
		return usageError{errors.New("pcap is not for a terminal: -o FILE, or pipe it to what reads it")}
	}
	var ctx context.Context = a
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(a, c.For)
		defer cancel()
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	n, err := writePcap(out, f, c.Count)
	if ctx.Err() != nil && errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return errors.Join(err, a.err.printf("%d frames\n", n))
}

// maxFrame is more than a frame with all that offload makes of it.
const maxFrame = 256 << 10

// writePcap writes frames as a pcap file: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html
func writePcap(out io.Writer, frames io.Reader, count int) (n int, err error) {
	head := binary.LittleEndian.AppendUint32(nil, 0xa1b23c4d) // with nanoseconds
	head = binary.LittleEndian.AppendUint16(head, 2)
	head = binary.LittleEndian.AppendUint16(head, 4)
	head = binary.LittleEndian.AppendUint64(head, 0)
	head = binary.LittleEndian.AppendUint32(head, maxFrame)
	head = binary.LittleEndian.AppendUint32(head, 1) // LINKTYPE_ETHERNET
	if _, err := out.Write(head); err != nil {
		return 0, err
	}
	frame := make([]byte, maxFrame)
	for count == 0 || n < count {
		size, err := frames.Read(frame)
		if err != nil {
			return n, err
		}
		now := time.Now()
		var b []byte
		for _, v := range []int64{now.Unix(), int64(now.Nanosecond()), int64(size), int64(size)} {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
		if _, err := out.Write(append(b, frame[:size]...)); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

type labGraphCmd struct {
	SVG   bool `name:"svg" help:"A picture instead of text."`
	Links bool `help:"The links with their devices, one a line."`
	labName
}

func (c *labGraphCmd) Run(a *app) error {
	p, err := c.look()
	if err != nil {
		return err
	}
	text := p.Text()
	switch {
	case c.Links:
		var b strings.Builder
		for _, l := range p.Cables {
			fmt.Fprintf(&b, "%s/%s %s/%s\n", l.A, l.ADevice, l.B, l.BDevice)
		}
		text = b.String()
	case c.SVG:
		text = p.SVG()
	}
	_, err = fmt.Fprint(a.out.raw, text)
	return err
}
