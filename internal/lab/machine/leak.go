package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"widecloud/internal/netio"
)

// Scope says whose remains count.
type Scope struct {
	Base string // as in Options; "": BaseDir()
	// Name restricts the check to one lab: its namespaces, mounts, processes and
	// state directory, and links whose name begins with it; so that others may
	// work on the machine meanwhile. eBPF programs count unless something that is not
	// of the lab holds them. "": everything on the machine counts.
	Name string
	// NoPrograms leaves out eBPF programs: another lab of the same program may have some
	// that a device alone holds, after an agent was killed.
	NoPrograms bool
}

// Leak is something that was not there before.
type Leak struct {
	Kind string // "namespace", "link", "mount", "process", "ebpf", "cgroup" or "file"
	What string
}

func (l Leak) String() string { return l.Kind + " " + l.What }

// State is what there was on the machine at a moment.
type State struct {
	scope Scope
	seen  map[Leak]bool
}

// Snapshot records what there is now; see State.Diff.
func Snapshot(s Scope) (State, error) {
	if s.Base == "" {
		s.Base = BaseDir()
	}
	list, err := inventory(s)
	if err != nil {
		return State{}, fmt.Errorf("take snapshot: %w", err)
	}
	st := State{scope: s, seen: map[Leak]bool{}}
	for _, l := range list {
		st.seen[l] = true
	}
	return st, nil
}

// Diff returns what is there now and was not when the snapshot was taken. The
// kernel removes some things (namespaces without a name, eBPF programs of a
// deleted device) a moment after their last user, so Diff looks again until
// nothing is left or the context ends; it then returns the leaks, not an error.
func (s State) Diff(ctx context.Context) ([]Leak, error) {
	for {
		list, err := inventory(s.scope)
		if err != nil {
			return nil, fmt.Errorf("compare with snapshot: %w", err)
		}
		leaks := slices.DeleteFunc(list, func(l Leak) bool { return s.seen[l] })
		if s.scope.Name != "" && slices.ContainsFunc(leaks, func(l Leak) bool { return l.Kind == "ebpf" }) {
			left, err := s.scope.programsLeft()
			if err != nil {
				return nil, fmt.Errorf("compare with snapshot: %w", err)
			}
			leaks = slices.DeleteFunc(leaks, func(l Leak) bool { return l.Kind == "ebpf" && !left[l] })
		}
		if len(leaks) == 0 || ctx.Err() != nil {
			return leaks, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// CheckMain runs a package's tests between two snapshots, and makes them fail if
// anything is left: func TestMain(m *testing.M) { os.Exit(machine.CheckMain(m, scope)) }.
func CheckMain(m interface{ Run() int }, s Scope) int {
	before, err := Snapshot(s)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	leaks, err := before.Diff(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	for _, l := range leaks {
		fmt.Fprintln(os.Stderr, "left behind:", l)
		code = max(code, 1)
	}
	return code
}

// inventory lists what counts.
func inventory(s Scope) ([]Leak, error) {
	var all []Leak
	add := func(kind, what string) { all = append(all, Leak{kind, what}) }

	names, err := netio.ListNS()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if s.Name == "" || strings.HasPrefix(name, s.Name+"-") {
			add("namespace", name)
		}
	}
	ns, err := netio.CurrentNS()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	links, err := ns.Links()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, s.Name) {
			add("link", l.Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if s.Name == "" || strings.Contains(line, s.dir()+"/") || strings.HasPrefix(f[4], filepath.Join(netio.NamedDir, s.Name)+"-") {
			add("mount", f[4])
		}
	}
	procs, err := s.processes()
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		add("process", fmt.Sprintf("%d (started %d): %s", p.pid, p.start, p.cmdline))
	}
	if !s.NoPrograms {
		programs, err := netio.BPFPrograms()
		if err != nil {
			return nil, err
		}
		for _, p := range programs {
			all = append(all, programLeak(p))
		}
	}
	for _, d := range cgroups(cmp.Or(s.Name, "*"), "*") {
		add("cgroup", d)
	}
	patterns := []string{filepath.Join(s.Base, "*")}
	if s.Name != "" {
		patterns = []string{s.dir(), s.dir() + ".*"}
	}
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			add("file", f)
		}
	}
	return all, nil
}

func (s Scope) dir() string { return filepath.Join(s.Base, s.Name) }

type process struct {
	pid     int
	start   uint64
	cmdline string
}

// processes lists those that are of a lab: started by one (by the environment),
// on a disk of one (by the root mount: QEMU's environment is libvirt's making),
// or descended from this program.
func (s Scope) processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []process
	self := os.Getpid()
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == self {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		start, err := startTime(pid)
		if err != nil {
			continue // gone, or a zombie that its parent has not reaped yet
		}
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		mounts, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		mark := "WIDECLOUD_LAB=" + s.Name
		if s.Name != "" {
			mark += "\x00"
		}
		ours := strings.Contains(string(env), mark) || strings.Contains(string(mounts), "upperdir="+s.dir()+"/")
		// What this program has started is of the lab, if it is not of another one.
		others := s.Name != "" && (strings.Contains(string(env), "WIDECLOUD_LAB=") || strings.Contains(string(mounts), "upperdir="+s.Base+"/"))
		if !ours && (others || !descends(pid, self)) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		out = append(out, process{pid, start, strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))})
	}
	return out, nil
}

func descends(pid, from int) bool {
	for pid > 1 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		f := strings.Fields(string(b)[strings.LastIndexByte(string(b), ')')+1:])
		if pid, err = strconv.Atoi(f[1]); err != nil {
			return false
		}
		if pid == from {
			return true
		}
	}
	return false
}

// Sweep removes what labs left whose program was killed: those of the base
// directory ("": BaseDir()), or only the named one. It returns the names of the
// labs that it removed. A lab whose program lives is ErrRunning if it was named,
// and left alone otherwise.
func Sweep(base, name string) ([]string, error) {
	if base == "" {
		base = BaseDir()
	}
	names := []string{name}
	if name == "" {
		entries, err := os.ReadDir(base)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("sweep: %w", err)
		}
		names = nil
		for _, e := range entries {
			n, _, _ := strings.Cut(e.Name(), ".")
			if nameRE.MatchString(n) && !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	var (
		swept []string
		errs  []error
	)
	for _, n := range names {
		dir := filepath.Join(base, n)
		err := removeAsides(dir)
		if _, e := os.Stat(dir); err == nil && errors.Is(e, fs.ErrNotExist) {
			continue
		}
		if _, e := Owner(base, n); e == nil {
			if name != "" {
				return nil, fmt.Errorf("sweep %s: %w", n, ErrRunning)
			}
			continue
		}
		if err == nil {
			err = sweep(base, n)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("sweep %s: %w", n, err))
			continue
		}
		swept = append(swept, n)
	}
	return swept, errors.Join(errs...)
}

// removeAsides removes state directories of programs that were killed before these had
// their name.
func removeAsides(dir string) error {
	found, err := filepath.Glob(dir + ".*")
	if err != nil {
		return err
	}
	var errs []error
	for _, aside := range found {
		var m marker
		if _, err := fmt.Sscanf(strings.TrimPrefix(aside, dir), ".%d.%d", &m.PID, &m.Start); err == nil && !m.alive() {
			errs = append(errs, os.RemoveAll(aside))
		}
	}
	return errors.Join(errs...)
}

func sweep(base, name string) error {
	dir := filepath.Join(base, name)
	scope := Scope{Base: base, Name: name}
	// The processes end by themselves, with the pipe from their program; what is
	// stopped or stuck is killed. Ours are not theirs.
	deadline := time.Now().Add(5 * time.Second)
	for {
		procs, err := scope.processes()
		if err != nil {
			return err
		}
		procs = slices.DeleteFunc(procs, func(p process) bool { return descends(p.pid, os.Getpid()) })
		if len(procs) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d does not end: %s", procs[0].pid, procs[0].cmdline)
		}
		for _, p := range procs {
			if now, err := startTime(p.pid); err == nil && now == p.start {
				syscall.Kill(p.pid, syscall.SIGKILL)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	var errs []error
	entries, err := os.ReadDir(filepath.Join(dir, "netns"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		if err := netio.DeleteNS(e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, removeCgroups(cgroups(name, "*")), removeAll(dir))...)
}

// Owner returns the process that runs the named lab; fs.ErrNotExist when there
// is none.
func Owner(base, name string) (pid int, err error) {
	m, err := owner(base, name)
	return m.PID, err
}

func owner(base, name string) (marker, error) {
	if base == "" {
		base = BaseDir()
	}
	m, err := readMarker(filepath.Join(base, name))
	if err != nil {
		return marker{}, fmt.Errorf("find owner of lab %s: %w", name, err)
	}
	if !m.alive() {
		return marker{}, fmt.Errorf("find owner of lab %s: process %d: %w", name, m.PID, fs.ErrNotExist)
	}
	return m, nil
}

// TakeDown ends the program that runs the named lab, which takes the lab down, and returns
// when it has ended. fs.ErrNotExist when there is none. What it has not taken down
// because it was killed meanwhile is for Sweep.
func TakeDown(ctx context.Context, base, name string) error {
	m, err := owner(base, name)
	if err != nil {
		return err
	}
	if err := syscall.Kill(m.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end lab %s: process %d: %w", name, m.PID, err)
	}
	for m.alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("end lab %s: process %d has not ended: %w", name, m.PID, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// nodePID is the first process of a node of a lab that another process runs. ErrOff
// when there is no such node, or it is off.
func nodePID(base, lab, node string) (int, error) {
	b, err := os.ReadFile(filepath.Join(base, lab, "nodes", node, "pid"))
	if err != nil {
		return 0, fmt.Errorf("enter %s/%s: %w", lab, node, ErrOff)
	}
	var pid int
	var want uint64
	if _, err := fmt.Sscan(string(b), &pid, &want); err != nil {
		return 0, fmt.Errorf("enter %s/%s: parse pid: %w", lab, node, err)
	}
	if start, err := startTime(pid); err != nil || start != want {
		return 0, fmt.Errorf("enter %s/%s: %w", lab, node, ErrOff)
	}
	return pid, nil
}

// CommandIn prepares a command inside a node of a lab that another process
// runs. ErrOff when there is no such node, or it is off.
func CommandIn(ctx context.Context, base, lab, node, name string, args ...string) (*Cmd, error) {
	if base == "" {
		base = BaseDir()
	}
	pid, err := nodePID(base, lab, node)
	if err != nil {
		return nil, err
	}
	n := &Node{lab: &Lab{o: Options{Name: lab, Base: base}}, name: node}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, fmt.Errorf("enter %s/%s: %w", lab, node, err)
	}
	n.first = &exec.Cmd{Process: p}
	return n.Command(ctx, name, args...), nil
}
