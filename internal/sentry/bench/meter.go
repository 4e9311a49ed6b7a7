package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cpu is the time that a process and its children have run, all threads.
func cpu(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return 0, err
	}
	sum := time.Duration(0)
	for _, t := range tasks {
		b, err := os.ReadFile(t + "/schedstat")
		if err != nil {
			continue // a thread that has just ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
		children, err := os.ReadFile(t + "/children")
		if err != nil {
			return 0, err
		}
		for _, c := range strings.Fields(string(children)) {
			n, err := strconv.Atoi(c)
			if err != nil {
				return 0, err
			}
			more, err := cpu(n)
			if err != nil {
				return 0, err
			}
			sum += more
		}
	}
	return sum, nil
}

// resident is a process's memory, in bytes; what the kernel keeps for its sockets is not in it.
func resident(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return kilobytes(string(b), "VmRSS:")
}

// kilobytes reads a line "NAME 123 kB".
func kilobytes(text, name string) (float64, error) {
	_, rest, ok := strings.Cut(text, name)
	f := strings.Fields(rest)
	if !ok || len(f) < 2 || f[1] != "kB" {
		return 0, fmt.Errorf("there is no %s in kB", name)
	}
	n, err := strconv.ParseFloat(f[0], 64)
	return 1024 * n, err
}

// quantile is the value below which a part q of the values is; they get sorted.
func quantile(v []float64, q float64) float64 {
	slices.Sort(v)
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

func median(v []float64) float64 { return quantile(slices.Clone(v), 0.5) }
