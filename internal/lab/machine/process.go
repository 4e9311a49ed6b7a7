package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// ProcessOptions describe a long-running process of a node.
type ProcessOptions struct {
	Name string   // unique in the node; names the log
	Args []string // Args[0] is the program
	As   string   // argv[0], if it is not to be Args[0]
	Env  []string // beside the node's own environment
	Dir  string   // "": /
	// Boot starts the process again whenever the node powers on.
	Boot bool
	// Ready, if set, is polled after the start until it returns nil; Start waits
	// for that, up to ReadyTimeout (0: 30 s).
	Ready        func(context.Context) error
	ReadyTimeout time.Duration
}

// Process is a long-running process of a node.
type Process struct {
	o    ProcessOptions
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the process ended, nil while it runs or after exit code 0.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// PID is the process's number on this machine (not inside the node).
func (p *Process) PID() int { return p.cmd.Process.Pid }

// LogPath is where the output of a node's process goes, of all its starts.
func (n *Node) LogPath(process string) string {
	if d := n.lab.o.LogDir; d != "" {
		return filepath.Join(d, n.name+"."+process+".log")
	}
	return filepath.Join(n.dir, "log", process+".log")
}

// Process returns the named process, running or ended; nil if it was not
// started since the last PowerOn.
func (n *Node) Process(name string) *Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.procs[name]
}

// Running are the names of the node's processes that run, sorted.
func (n *Node) Running() (l []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, p := range n.procs {
		select {
		case <-p.done:
		default:
			l = append(l, name)
		}
	}
	slices.Sort(l)
	return l
}

// Start starts a process inside the node, in the foreground of a process group
// of its own, its output appended to LogPath. fs.ErrExist while one of that name
// runs. If it ends or does not get ready in time, Start fails with the end of
// its log.
func (n *Node) Start(o ProcessOptions) (*Process, error) {
	if o.Name == "" || len(o.Args) == 0 {
		return nil, fmt.Errorf("start process on %s: name and args are needed", n.name)
	}
	if old := n.Process(o.Name); old != nil {
		select {
		case <-old.done:
		default:
			return nil, fmt.Errorf("start %s on %s: %w", o.Name, n.name, fs.ErrExist)
		}
	}
	out, err := os.OpenFile(n.LogPath(o.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", o.Name, n.name, err)
	}
	defer out.Close()
	c := n.Command(context.Background(), o.Args[0], o.Args[1:]...)
	if o.As != "" {
		c.Args[0] = o.As
	}
	c.Env = append(c.Env, o.Env...)
	c.Stdout, c.Stderr = out, out
	if o.Dir != "" {
		c.Dir = o.Dir
	}
	p := &Process{o: o, cmd: c.Cmd, done: make(chan struct{})}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	n.mu.Lock()
	if n.first == nil {
		// The power went while we started; the process went with it.
		n.mu.Unlock()
		c.Process.Kill()
		c.Wait()
		return nil, fmt.Errorf("start %s on %s: %w", o.Name, n.name, ErrOff)
	}
	n.procs[o.Name] = p
	if o.Boot {
		if i := slices.IndexFunc(n.boot, func(b ProcessOptions) bool { return b.Name == o.Name }); i >= 0 {
			n.boot[i] = o
		} else {
			n.boot = append(n.boot, o)
		}
	}
	n.mu.Unlock()
	go func() {
		p.err = c.Wait()
		close(p.done)
	}()
	if err := n.waitReady(p); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w; its log ends: %s", o.Name, n.name, err, tail(n.LogPath(o.Name), 2000))
	}
	return p, nil
}

func (n *Node) waitReady(p *Process) error {
	if p.o.Ready == nil {
		return nil
	}
	timeout := p.o.ReadyTimeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		err := p.o.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended before it was ready: %v", p.err)
		case <-ctx.Done():
			return fmt.Errorf("it is not ready after %v: %w", timeout, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill sends a signal to the named process (not to its children, as kill(1)
// does). After SIGKILL it waits for the end. fs.ErrNotExist if it is not running.
func (n *Node) Kill(name string, sig syscall.Signal) error {
	if unit := n.service(name); unit != "" {
		return n.onService(unit, "kill", "--kill-whom=main", fmt.Sprintf("--signal=%d", sig))
	}
	p := n.Process(name)
	if p == nil {
		return fmt.Errorf("kill %s on %s: %w", name, n.name, fs.ErrNotExist)
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			err = fs.ErrNotExist
		}
		return fmt.Errorf("kill %s on %s: %w", name, n.name, err)
	}
	if sig == syscall.SIGKILL {
		<-p.done
	}
	return nil
}

// Stop ends the named process with SIGTERM, or with SIGKILL after ten seconds,
// and does not start it again at PowerOn. It is no error if it has ended.
func (n *Node) Stop(name string) error {
	if unit := n.service(name); unit != "" {
		return n.onService(unit, "stop")
	}
	n.mu.Lock()
	p := n.procs[name]
	n.boot = slices.DeleteFunc(n.boot, func(b ProcessOptions) bool { return b.Name == name })
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	return p.stop()
}

func (p *Process) stop() error {
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
	return nil
}

// Restart starts the named process again as it was started before, after
// ending it if it still runs. fs.ErrNotExist if it never was.
func (n *Node) Restart(name string) (*Process, error) {
	if unit := n.service(name); unit != "" {
		return nil, n.onService(unit, "restart")
	}
	p := n.Process(name)
	if p == nil {
		return nil, fmt.Errorf("restart %s on %s: %w", name, n.name, fs.ErrNotExist)
	}
	if err := p.stop(); err != nil {
		return nil, fmt.Errorf("restart %s on %s: %w", name, n.name, err)
	}
	return n.Start(p.o)
}

// tail is the end of a file, for an error message.
func tail(path string, limit int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-limit):])
}
