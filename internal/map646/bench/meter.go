package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// meter reads the CPU time of a group of processes and of ksoftirqd.
type meter struct {
	dir     string   // of the cgroup
	softirq []string // schedstat files
}

// usage is CPU time since some beginning, in seconds.
type usage struct {
	Group     float64 // of the cgroup's tasks, and softirqs that ran in them
	Ksoftirqd float64
	Machine   float64 // all CPUs, by ticks
}

func (u usage) since(b usage) usage {
	return usage{u.Group - b.Group, u.Ksoftirqd - b.Ksoftirqd, u.Machine - b.Machine}
}

// cost is what the path has cost.
func (u usage) cost() float64 { return u.Group + u.Ksoftirqd }

// cgroupRoot is where the cgroup v2 hierarchy is mounted; it may be beside those
// of version 1, since cpu.stat needs no controller.
func cgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if p := strings.Fields(s.Text()); len(p) > 2 && p[2] == "cgroup2" {
			return p[1], nil
		}
	}
	return "", errors.New("no cgroup2 is mounted (mount -t cgroup2 none /sys/fs/cgroup)")
}

func newMeter(name string) (*meter, error) {
	root, err := cgroupRoot()
	if err != nil {
		return nil, err
	}
	m := &meter{dir: filepath.Join(root, name)}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return nil, err
	}
	pids, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	for _, p := range pids {
		if c, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(c), "ksoftirqd/") {
			m.softirq = append(m.softirq, filepath.Join(filepath.Dir(p), "schedstat"))
		}
	}
	return m, nil
}

func (m *meter) read() (usage, error) {
	var u usage
	text, err := os.ReadFile(filepath.Join(m.dir, "cpu.stat"))
	if err != nil {
		return u, err
	}
	usec, err := cpuStat(string(text))
	if err != nil {
		return u, fmt.Errorf("%s/cpu.stat: %w", m.dir, err)
	}
	u.Group = usec / 1e6
	for _, f := range m.softirq {
		text, err := os.ReadFile(f)
		if err != nil {
			return u, err
		}
		ran, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseFloat(ran, 64)
		if err != nil {
			return u, fmt.Errorf("%s: %w", f, err)
		}
		u.Ksoftirqd += ns / 1e9
	}
	if text, err = os.ReadFile("/proc/stat"); err != nil {
		return u, err
	}
	u.Machine, err = busy(string(text))
	return u, err
}

// cpuStat finds the CPU time, in microseconds, in a cgroup's cpu.stat.
func cpuStat(text string) (float64, error) {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "usage_usec "); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, errors.New("no usage_usec")
}

// busy is the time, in seconds, that all CPUs were neither idle nor waiting nor
// taken away, from /proc/stat.
func busy(text string) (float64, error) {
	line, _, _ := strings.Cut(text, "\n")
	p := strings.Fields(line)
	if len(p) < 8 || p[0] != "cpu" {
		return 0, errors.New("/proc/stat: no line for all CPUs")
	}
	var ticks float64
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		n, err := strconv.ParseFloat(p[i], 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return ticks / 100, nil // USER_HZ
}

// processTime is the CPU time, in seconds, of a process's threads; those that have
// ended do not count.
func processTime(pid int) (float64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // ended meanwhile
		}
		ran, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseFloat(ran, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", f, err)
		}
		sum += ns / 1e9
	}
	return sum, nil
}

// close removes the cgroup, and kills what is still in it.
func (m *meter) close() error {
	kill := os.WriteFile(filepath.Join(m.dir, "cgroup.kill"), []byte("1"), 0)
	var err error
	for range 200 {
		if err = os.Remove(m.dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.Join(err, kill)
}
