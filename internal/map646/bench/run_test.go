package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func build(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "bench")
	if out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return exe
}

// left lists what runs of a process id would leave behind.
func left(t *testing.T, pid string) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"/run/netns/m6b" + pid + "-*", "/sys/fs/cgroup/m6b" + pid + "-*", "/sys/fs/cgroup/unified/m6b" + pid + "-*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	return out
}

// TestRun is a whole run, as short as can be: the lines come out, the files are
// written, nothing is left behind.
func TestRun(t *testing.T) {
	exe, dir := build(t), t.TempDir()
	cmd := exec.Command(exe, "-paths", "ipv6,ipv4,tun,fast,stack,full,tayga", "-loads", "tcp1,udp64,full_table,scraped,rtt,table", "-rounds", "2", "-seconds", "0.1", "-stream", "0.1", "-mappings", "500", "-pings", "50", "-write", dir)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	for _, want := range []string{
		`(?m)^ratio ipv4\.tcp1 [0-9.]+$`, `(?m)^ratio tayga\.tcp1 [0-9.]+$`, `(?m)^ratio tun\.udp64 [0-9.]+$`, `(?m)^figure full\.udp64_of_tun [0-9.]+ ratio$`, `(?m)^ratio fast\.udp64 [0-9.]+$`, `(?m)^ratio stack\.tcp1 [0-9.]+$`, `(?m)^ratio full\.full_table [0-9.]+$`, `(?m)^ratio fast\.scraped [0-9.]+$`,
		`(?m)^figure fast\.rtt_p10 [0-9.]+ us$`, `(?m)^figure table\.load_seconds [0-9.]+ s$`, `(?m)^figure table\.bytes_per_mapping [-0-9.]+ bytes$`, `(?m)^figure fast\.share `,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no line %s in\n%s", want, out.String())
		}
	}
	for _, name := range []string{"map646-bench.md", "map646-bench.svg"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(b) < 500 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if l := left(t, strconv.Itoa(cmd.Process.Pid)); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}

// TestInterrupted stops a run in the middle, as Ctrl-C does.
func TestInterrupted(t *testing.T) {
	exe := build(t)
	cmd := exec.Command(exe, "-paths", "ipv6,tayga", "-loads", "tcp1", "-rounds", "100", "-seconds", "0.1")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer watchdog.Stop()
	buf := make([]byte, 4096)
	for seen := ""; !strings.Contains(seen, "round 2"); {
		n, err := log.Read(buf)
		if err != nil {
			t.Fatalf("before round 2: %v\n%s", err, seen)
		}
		seen += string(buf[:n])
	}
	cmd.Process.Signal(syscall.SIGINT)
	go func() {
		for {
			if _, err := log.Read(buf); err != nil {
				return
			}
		}
	}()
	pid := cmd.Process.Pid
	if err := cmd.Wait(); err == nil {
		t.Error("an interrupted run ended well")
	}
	if l := left(t, strconv.Itoa(pid)); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}
