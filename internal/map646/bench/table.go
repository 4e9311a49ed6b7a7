package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memory is what a process and the BPF maps that it holds open take, in bytes.
type memory struct{ User, Kernel float64 }

func memoryOf(pid int) (memory, error) {
	var m memory
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return m, err
	}
	// Not VmRSS: that has the maps' memory, too, where the process looks at it.
	kb, ok := field(string(text), "RssAnon:")
	if !ok {
		return m, errors.New("no RssAnon in status")
	}
	m.User = kb * 1024
	infos, err := filepath.Glob(filepath.Join(proc, "fdinfo", "*"))
	if err != nil {
		return m, err
	}
	seen := map[float64]bool{}
	for _, f := range infos {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // closed meanwhile
		}
		id, isMap := field(string(text), "map_id:")
		if bytes, ok := field(string(text), "memlock:"); ok && isMap && !seen[id] {
			seen[id] = true
			m.Kernel += bytes
		}
	}
	return m, nil
}

// field finds a number behind a name at the start of a line.
func field(text, name string) (float64, bool) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if words := strings.Fields(rest); len(words) > 0 {
				v, err := strconv.ParseFloat(words[0], 64)
				return v, err == nil
			}
		}
	}
	return 0, false
}

// tables measures the big table itself: loading, memory, changes.
func (r *run) tables(ctx context.Context) error {
	for _, path := range []string{"fast", "full"} {
		big, small := r.worlds[r.plan.full(path)], r.worlds[r.plan.single(path)]
		if big == nil || small == nil {
			continue
		}
		m, err := memoryOf(big.daemon.cmd.Process.Pid)
		if err != nil {
			return err
		}
		one, err := memoryOf(small.daemon.cmd.Process.Pid)
		if err != nil {
			return err
		}
		// The figures of the whole translator bear no path's name.
		prefix := "table."
		if path == "full" {
			prefix = "table.full_"
		}
		n := float64(r.plan.Mappings - 1)
		add := func(name string, value float64, unit string) {
			r.figures = append(r.figures, figure{prefix + name, value, unit})
		}
		add("mappings", float64(r.plan.Mappings), "count")
		add("load_seconds", big.ready.Seconds(), "s")
		add("bytes_per_mapping", (m.User+m.Kernel-one.User-one.Kernel)/n, "bytes")
		if path == "fast" {
			add("kernel_bytes_per_mapping", (m.Kernel-one.Kernel)/n, "bytes")
		}
		if err := r.updates(ctx, big, add); err != nil {
			return fmt.Errorf("%s: updates: %w", path, err)
		}
	}
	return nil
}
