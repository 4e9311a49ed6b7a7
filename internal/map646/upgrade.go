package map646

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// HandoverEnv and StandInEnv are the environment variables by which one program
// leaves its device to the next.
const (
	HandoverEnv = "MAP646_HANDOVER"
	StandInEnv  = "MAP646_STANDIN"
)

// standInTimeout is how long a new program may take to read its configuration and
// the table.
const standInTimeout = 2 * time.Minute

// handover is what a program leaves to the one that takes its place, as JSON and
// behind it the table, a mapping a line, in a file without a name.
type handover struct {
	TUN      []int // descriptors
	Started  time.Time
	Draining bool
	FastOff  bool
	Carried  carried
	Refused  []RefusedLine
	// Of the stand-in that reads the queues meanwhile: its process and the pipe that
	// it reports to; the other pipe ends it when it is closed.
	StandIn, Report, Hold int

	mappings []siit.Pair
}

// readHandover reads what text, "descriptor", says.
func readHandover(text string) (*handover, error) {
	fail := func(err error) (*handover, error) { return nil, fmt.Errorf("take over: %w", err) }
	fd, err := strconv.Atoi(text)
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), "handover")
	defer f.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fail(err)
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	h := &handover{}
	if !lines.Scan() {
		return fail(errors.New("nothing was left"))
	}
	if err := json.Unmarshal(lines.Bytes(), h); err != nil {
		return fail(err)
	}
	for lines.Scan() {
		out, in, _ := strings.Cut(lines.Text(), " ")
		var p siit.Pair
		if p.Outside, err = netip.ParsePrefix(out); err == nil {
			p.Inside, err = netip.ParsePrefix(in)
		}
		if err != nil {
			return fail(err)
		}
		h.mappings = append(h.mappings, p)
	}
	if err := lines.Err(); err != nil {
		return fail(err)
	}
	return h, nil
}

// write makes the file; its descriptor is inherited by programs.
func (h *handover) write(t *siit.Table) (fd int, err error) {
	f, err := os.CreateTemp("", "map646-*")
	if err != nil {
		return -1, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return -1, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := json.NewEncoder(w).Encode(h); err != nil {
		return -1, err
	}
	for e := range t.Entries() {
		fmt.Fprintf(w, "%v %v\n", e.Outside, e.Inside)
	}
	if err := w.Flush(); err != nil {
		return -1, err
	}
	return syscall.Dup(int(f.Fd())) // without close-on-exec
}

type upgradeRequest struct {
	binary string
	ready  chan error // one answer: the new program is about to run, or why not
}

// Upgrade replaces the running program by the one at binary ("": the same path)
// without letting go of the device. The new program is first started beside this
// one, where it reads configuration and table; if it cannot, nothing has changed and
// the error says why. Then it carries the packets while this process executes the
// new program in its place: the process stays, and no queue is unread for more
// than a moment. The answer comes before that.
func (d *Daemon) Upgrade(ctx context.Context, binary string) error {
	r := upgradeRequest{binary, make(chan error, 1)}
	select {
	case d.upgrading <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.ready:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// upgrades serves Upgrade; resume starts the queues' readers again.
func (d *Daemon) upgrades(ctx context.Context, tun *netio.TUN, resume func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-d.upgrading:
			d.changing.Lock()
			err := d.upgrade(ctx, tun, r, resume)
			d.changing.Unlock()
			d.log.Error("no upgrade", "err", err)
			select {
			case r.ready <- err:
			default: // it has been told that all was well
			}
		}
	}
}

// upgrade returns only if it fails.
func (d *Daemon) upgrade(ctx context.Context, tun *netio.TUN, r upgradeRequest, resume func()) (err error) {
	binary := r.binary
	if binary == "" {
		if binary, err = os.Executable(); err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		// The file may have been replaced.
		binary = strings.TrimSuffix(binary, " (deleted)")
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	var open []int
	defer func() {
		for _, fd := range open {
			syscall.Close(fd)
		}
	}()
	pipe := func() (r, w int, err error) {
		var p [2]int
		if err = syscall.Pipe(p[:]); err == nil {
			open = append(open, p[0], p[1])
		}
		return p[0], p[1], err
	}
	h := &handover{Started: d.started, Draining: d.draining, FastOff: d.fast.off, Refused: d.config.Refused}
	if h.TUN, err = tun.Descriptors(); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	open = append(open, h.TUN...)
	state, err := h.write(d.table.Load())
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	open = append(open, state)
	// hold: the stand-in works between our first byte and the pipe's end.
	holdR, holdW, err := pipe()
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	reportR, reportW, err := pipe()
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	for _, fd := range []int{holdW, reportR} {
		syscall.CloseOnExec(fd) // the stand-in must not hold itself
	}
	args := append([]string{binary}, d.o.Args...)
	if len(d.o.Args) == 0 {
		args = append(args, "run", "--config", d.o.ConfigPath)
	}
	env := append(environment(), fmt.Sprintf("%s=%d", HandoverEnv, state), fmt.Sprintf("%s=%d,%d", StandInEnv, holdR, reportW))
	var child int
	err = d.ns.Do(func() (err error) {
		child, err = syscall.ForkExec(binary, args, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{}})
		return err
	})
	if err != nil {
		return fmt.Errorf("upgrade: start %s: %w", binary, err)
	}
	syscall.Close(holdR)
	syscall.Close(reportW)
	syscall.CloseOnExec(state)
	open = without(open, []int{holdR, reportW})
	report := os.NewFile(uintptr(dup(reportR)), "stand-in's report")
	defer report.Close()
	working := false // it ends by itself, with the pipe, and finishes its last packet
	stop := func(err error) error {
		syscall.Close(holdW)
		open = without(open, []int{holdW})
		if !working {
			_ = syscall.Kill(child, syscall.SIGKILL)
		}
		var ws syscall.WaitStatus
		_, _ = syscall.Wait4(child, &ws, 0, nil)
		return err
	}
	lines := bufio.NewReader(report)
	timer := time.AfterFunc(standInTimeout, func() { _ = syscall.Kill(child, syscall.SIGKILL) })
	defer timer.Stop()
	cancel := context.AfterFunc(ctx, func() { _ = syscall.Kill(child, syscall.SIGKILL) })
	defer cancel()
	line, err := lines.ReadString('\n')
	if line != "ready\n" {
		return stop(fmt.Errorf("upgrade: %s: %s", binary, strings.TrimSpace(line+" "+explainEnd(err))))
	}
	// From here to the stand-in's first read, packets wait in the device.
	for _, q := range tun.Queues() {
		if err := q.Park(); err != nil {
			return stop(fmt.Errorf("upgrade: %w", err))
		}
	}
	for d.readers.Load() > 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	goOn := func(err error) error {
		err = stop(err)
		for _, q := range tun.Queues() {
			err = errors.Join(err, q.Unpark())
		}
		resume()
		return err
	}
	if _, err := syscall.Write(holdW, []byte("go\n")); err != nil || ctx.Err() != nil {
		return goOn(fmt.Errorf("upgrade: %w", errors.Join(err, ctx.Err())))
	}
	working = true
	s := d.Stats()
	h.Carried = carried{Reloads: s.Reloads, ReloadErrors: s.ReloadErrors, Updates: s.Updates, Refused: s.UpdatesRefused,
		Upgrades: s.Upgrades + 1, Mappings: map[string]MappingCount{}}
	h.Carried.add(s)
	for e := range d.table.Load().Entries() {
		if n := d.fullCount(e.ID); n != (MappingCount{}) { // the kernel keeps its own
			h.Carried.Mappings[short(e.Outside)] = n
		}
	}
	h.StandIn, h.Report, h.Hold = child, dup(reportR), dup(holdW)
	open = append(open, h.Report, h.Hold)
	next, err := h.write(d.table.Load())
	if err != nil {
		return goOn(fmt.Errorf("upgrade: %w", err))
	}
	open = append(open, next)
	d.log.Info("replacing the program", "binary", binary, "stand-in", child)
	r.ready <- nil
	time.Sleep(50 * time.Millisecond) // for the answer to be on its way
	env = append(environment(), fmt.Sprintf("%s=%d", HandoverEnv, next))
	err = d.ns.Do(func() error { return syscall.Exec(binary, args, env) })
	return goOn(fmt.Errorf("upgrade: execute %s: %w", binary, err))
}

// environment is ours, without what an earlier upgrade has put there.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, HandoverEnv+"=") || strings.HasPrefix(s, StandInEnv+"=")
	})
}

// dup duplicates a descriptor that programs inherit.
func dup(fd int) int {
	n, err := syscall.Dup(fd)
	if err != nil {
		return -1
	}
	return n
}

func explainEnd(err error) string {
	if errors.Is(err, io.EOF) {
		return "ended before it was ready (its log says why)"
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// relieve ends the stand-in, if there is one, and takes over what it has counted.
// Its last packet is out before our first is read, so that none is overtaken.
func (d *Daemon) relieve() error {
	h := d.handover
	if h == nil {
		return nil
	}
	d.handover = nil
	syscall.Close(h.Hold)
	report := os.NewFile(uintptr(h.Report), "stand-in's report")
	defer report.Close()
	var s Stats
	err := json.NewDecoder(report).Decode(&s)
	d.mu.Lock()
	d.carried.add(s)
	d.mu.Unlock()
	var ws syscall.WaitStatus
	_, _ = syscall.Wait4(h.StandIn, &ws, 0, nil)
	if err != nil {
		d.log.Warn("the stand-in has not said what it has counted", "err", err)
	}
	for _, q := range d.tun.Queues() {
		if err := q.Unpark(); err != nil {
			return err
		}
	}
	d.log.Info("upgraded", "mappings", d.count4, "mappings66", d.count6)
	return nil
}

// StandIn translates in the place of a process that is executing another program:
// it has the descriptors of that one's device, and touches nothing else. how is
// StandInEnv's value. It returns when the process comes back, or dies.
func StandIn(o Options, how string) error {
	fail := func(err error) error { return fmt.Errorf("stand in: %w", err) }
	hold, report, ok := strings.Cut(how, ",")
	holdFD, err := strconv.Atoi(hold)
	reportFD, err2 := strconv.Atoi(report)
	if !ok || err != nil || err2 != nil {
		return fail(fmt.Errorf("bad %s", StandInEnv))
	}
	syscall.CloseOnExec(holdFD)
	syscall.CloseOnExec(reportFD)
	in, out := os.NewFile(uintptr(holdFD), "hold"), os.NewFile(uintptr(reportFD), "report")
	defer in.Close()
	defer out.Close()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With("part", "stand-in")
	d, err := New(o)
	if err != nil {
		fmt.Fprintln(out, err)
		return fail(err)
	}
	ns := o.NS
	if ns == nil {
		if ns, err = netio.CurrentNS(); err != nil {
			return fail(err)
		}
		defer ns.Close()
	}
	if n := len(d.handover.TUN); n != d.config.TUN.Queues {
		err = fmt.Errorf("%w: %s: tun.queues: cannot change without a restart", ErrConfig, o.ConfigPath)
		fmt.Fprintln(out, err)
		return fail(err)
	}
	tun, err := ns.AdoptTUN(d.config.TUN, d.handover.TUN)
	if err != nil {
		fmt.Fprintln(out, err)
		return fail(err)
	}
	defer tun.Close()
	fmt.Fprintln(out, "ready")
	r := bufio.NewReader(in)
	if _, err := r.ReadString('\n'); err != nil {
		return nil // nobody needs us
	}
	g := errgroup.Group{}
	for i, q := range tun.Queues() {
		if err := q.Unpark(); err != nil {
			return fail(err)
		}
		g.Go(func() error { return d.queues[i].run(q) })
	}
	_, _ = r.ReadString('\n') // the end of the pipe
	for _, q := range tun.Queues() {
		if err := q.Park(); err != nil {
			return fail(err)
		}
	}
	if err := g.Wait(); err != nil {
		return fail(err)
	}
	return json.NewEncoder(out).Encode(d.Stats())
}
