package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// hz is the kernel's USER_HZ: ticks a second in /proc (proc(5)).
const hz = 100

// used is what a process, and the machine, have used.
type used struct {
	at      time.Time
	process time.Duration // CPU time
	bench   time.Duration // of this process
	machine time.Duration // of everything
}

// meter reads what is used by a process.
func meter(pid int) (u used, err error) {
	u.at = time.Now()
	if u.process, err = cpuOf(strconv.Itoa(pid)); err != nil {
		return u, err
	}
	if u.bench, err = cpuOf("self"); err != nil {
		return u, err
	}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return u, fmt.Errorf("/proc/stat: %w", err)
		}
		if i != 3 && i != 4 && i < 8 { // idle, iowait; guests are in user
			u.machine += time.Duration(n) * time.Second / hz
		}
	}
	return u, nil
}

func cpuOf(pid string) (time.Duration, error) {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // from the third field on
	var sum int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%s/stat: %w", pid, err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / hz, nil
}

// resident is the most memory that a process has had, in MiB, since its start.
func resident(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no VmHWM", pid)
}

// threadTime is the CPU time of this thread (CLOCK_THREAD_CPUTIME_ID of clock_gettime(2)). What other processes take of a
// CPU is not in it.
func threadTime() time.Duration {
	const clock = 3
	var t syscall.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&t)), 0); errno != 0 {
		panic("bench: clock_gettime: " + errno.Error()) // a clock that every Linux has
	}
	return time.Duration(t.Nano())
}
