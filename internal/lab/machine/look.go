package machine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"widecloud/internal/netio"
)

// Cable is a link between two machines of a lab.
type Cable struct {
	A, B             string // machines
	ADevice, BDevice string
	WAN              bool // with rate and delay
}

// linksFile is where a lab notes its links, one a line, for other programs.
func linksFile(dir string) string { return filepath.Join(dir, "links") }

// note writes a link down for Look.
func (l *Lab) note(a, b End, wan bool) error {
	line, err := json.Marshal(Cable{A: a.Node.name, ADevice: a.Device, B: b.Node.name, BDevice: b.Device, WAN: wan})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return appendLine(linksFile(l.dir), line, 0o644)
}

// Seen is a machine of a lab that another program runs.
type Seen struct {
	Name      string
	PID       int      // of its first process; 0: it is off
	Processes []string // names, sorted, without the first
}

// Picture is a lab that another program runs, as it is now.
type Picture struct {
	Name     string
	LogDir   string // "": logs are in the state directory
	Machines []Seen // by name
	Cables   []Cable
	Doors    []Door
}

// Look sees what is up in a lab. base is "" for BaseDir(). ErrOff when there is none
// of that name.
func Look(base, name string) (*Picture, error) {
	if base == "" {
		base = BaseDir()
	}
	if _, err := Owner(base, name); err != nil {
		return nil, fmt.Errorf("lab %s is not up: %w", name, ErrOff)
	}
	dir := filepath.Join(base, name)
	p := &Picture{Name: name}
	m, err := readMarker(dir)
	if err != nil {
		return nil, fmt.Errorf("look at lab %s: %w", name, err)
	}
	p.LogDir = m.Logs
	entries, err := os.ReadDir(filepath.Join(dir, "nodes"))
	if err != nil {
		return nil, fmt.Errorf("look at lab %s: %w", name, err)
	}
	running, err := byPIDNamespace()
	if err != nil {
		return nil, fmt.Errorf("look at lab %s: %w", name, err)
	}
	for _, e := range entries {
		s := Seen{Name: e.Name()}
		if pid, err := nodePID(base, name, e.Name()); err == nil {
			s.PID = pid
			s.Processes = running[pidNamespace(pid)]
		}
		p.Machines = append(p.Machines, s)
	}
	if p.Cables, err = readLines[Cable](linksFile(dir)); err == nil {
		p.Doors, err = readLines[Door](doorsFile(dir))
	}
	if err != nil {
		return nil, fmt.Errorf("look at lab %s: %w", name, err)
	}
	return p, nil
}

// appendLine adds a line to a file.
func appendLine(path string, line []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// readLines are the values of a file, JSON, one a line; none if there is no such file.
func readLines[T any](path string) (all []T, _ error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range bytes.Lines(text) {
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, v)
	}
	return all, nil
}

// Machine finds one by its name, or by that which scripts have for it: tokyo/h1, or
// tokyo for its controller's, or inet4.
func (p *Picture) Machine(name string) (Seen, error) {
	for _, n := range []string{name, strings.ReplaceAll(name, "/", "-"), name + "-ctl", strings.Replace(name, "inet", "client", 1)} {
		if i := slices.IndexFunc(p.Machines, func(s Seen) bool { return s.Name == n }); i >= 0 {
			return p.Machines[i], nil
		}
	}
	var known []string
	for _, s := range p.Machines {
		known = append(known, s.Name)
	}
	return Seen{}, fmt.Errorf("no machine %q in lab %s; known: %s", name, p.Name, strings.Join(known, ", "))
}

// Capture sees the frames of a machine's device; see netio.NS.Capture.
func (p *Picture) Capture(machine, device string) (*os.File, error) {
	ns, err := netio.OpenNS(p.Name + "-" + machine)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return ns.Capture(device)
}

func pidNamespace(pid int) string {
	to, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return "" // it has ended
	}
	return to
}

// byPIDNamespace are the names of all processes that are not their namespace's first.
func byPIDNamespace() (map[string][]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, dir := range dirs {
		ns, err := os.Readlink(filepath.Join(dir, "ns", "pid"))
		if err != nil {
			continue // it has ended
		}
		status, _ := os.ReadFile(filepath.Join(dir, "status"))
		name, first := "", false
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(line, ":")
			switch key {
			case "Name":
				name = strings.TrimSpace(value)
			case "NSpid":
				f := strings.Fields(value)
				first = len(f) > 0 && f[len(f)-1] == "1"
			}
		}
		if name != "" && !first {
			out[ns] = append(out[ns], name)
		}
	}
	for _, l := range out {
		slices.Sort(l)
	}
	return out, nil
}
