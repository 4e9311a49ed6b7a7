// Command guest is the whole userland of the lab's tiny image: the first and
// only process of a virtual machine that gets its addresses by SLAAC and DHCPv4,
// reads its cloud-init seed, serves HTTP, writes its memory and its disk when
// told so, and turns off when its power button is pressed. It writes the files of
// its user-data, and runs sentryc if its image has it and user-data its
// configuration. It is linked statically.
//
// What it serves (port 80, both families):
//
//	GET  /                        host name, boot id, uptime, number of requests
//	GET  /boot                    the boot id
//	GET  /clock                   clocks in nanoseconds, as JSON
//	GET  /addrs                   addresses of eth0, one a line
//	GET  /seed                    what the cloud-init seed said, as JSON
//	GET  /stream?rate=R&seconds=S R bytes a second, each 8 bytes the big-endian
//	                              offset at which they stand (also &from=OFFSET)
//	POST /dirty?mb=N&rate=R       write N MiB of memory over and over, R bytes a
//	                              second (0: as fast as it can); mb=0 ends that;
//	                              507 if it has not got so much memory
//	PUT  /disk?mb=N&seed=S        write N MiB of pseudo-random data to the second
//	                              partition, flush, answer its SHA-256; with
//	                              &name=NAME to the disk with that serial number
//	GET  /disk?mb=N               SHA-256 of the first N MiB of that partition, or
//	                              with &name=NAME that disk, as read from it
//	GET  /disks                   disks with a serial number, and bytes, one a line
//	POST /poweroff                turn off
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"widecloud/internal/lab/userdata"
)

func main() {
	debug.SetMemoryLimit(48 << 20)
	mounts := [][3]string{{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}, {"tmpfs", "/run", "tmpfs"}}
	for _, m := range mounts {
		os.MkdirAll(m[1], 0o755)
		warn("mount "+m[1], syscall.Mount(m[0], m[1], m[2], 0, ""))
	}
	stdio()
	write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
	write("/proc/sys/net/ipv6/conf/default/router_solicitation_delay", "0")
	write("/proc/sys/net/ipv4/conf/all/rp_filter", "0")
	warn("write hosts", errors.Join(os.MkdirAll("/etc", 0o755), os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n::1 localhost\n"), 0o644)))
	// In the order of their dependencies, as the image's builder has found it. The
	// modules of a disk controller the machine has not got do no harm but take
	// time, so those of the list's second part wait until a disk is missed.
	loadModules("/modules/first")
	g := &guest{boot: strings.TrimSpace(read("/proc/sys/kernel/random/boot_id")), start: time.Now()}
	warn("set lo up", linkUp("lo"))
	warn("set eth0 up", linkUp("eth0"))

	var wg sync.WaitGroup
	wg.Go(func() { g.serve() })
	wg.Go(func() {
		g.readSeed()
		go powerButton()
		go g.console("/dev/ttyS0")
		go g.console("/dev/tty1") // the display and the keyboard; without them nobody reads it
		go sentryc()
	})
	wg.Go(func() { dhcp("eth0") })
	wg.Wait()
	select {} // the first process must not end
}

type guest struct {
	boot  string
	start time.Time
	seed  seed
}

// seed is what the NoCloud data source (the disk labelled cidata) says.
type seed struct {
	mu         sync.Mutex
	Found      bool     `json:"found"`
	InstanceID string   `json:"instanceID"`
	Hostname   string   `json:"hostname"`
	SSHKeys    []string `json:"sshKeys"`
}

func (g *guest) readSeed() {
	hostname := "guest"
	dev := findSeed()
	if dev == "" {
		loadModules("/modules/second")
		for range 20 { // SATA and IDE are probed in the background
			if dev = findSeed(); dev != "" {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	if dev != "" {
		os.MkdirAll("/seed", 0o755)
		if err := syscall.Mount(dev, "/seed", "iso9660", syscall.MS_RDONLY, ""); err != nil {
			warn("mount seed", err)
		} else {
			user := read("/seed/user-data")
			s := parseSeed(read("/seed/meta-data"), user)
			warn("write files", writeFiles(user))
			g.seed.mu.Lock()
			g.seed.Found, g.seed.InstanceID, g.seed.Hostname, g.seed.SSHKeys = true, s.InstanceID, s.Hostname, s.SSHKeys
			g.seed.mu.Unlock()
			warn("unmount seed", syscall.Unmount("/seed", 0))
			if s.Hostname != "" {
				hostname = s.Hostname
			}
		}
	}
	warn("set hostname", syscall.Sethostname([]byte(hostname)))
}

// parseSeed reads the few YAML lines of interest: "instance-id: X",
// "local-hostname: Y", and list items that are ssh keys.
func parseSeed(meta, user string) *seed {
	s := &seed{}
	for line := range strings.Lines(meta) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		switch strings.Trim(key, `"'`) {
		case "instance-id":
			s.InstanceID = value
		case "local-hostname":
			s.Hostname = value
		}
	}
	for line := range strings.Lines(user) {
		item, ok := strings.CutPrefix(strings.TrimSpace(line), "-")
		item = strings.Trim(strings.TrimSpace(item), `"'`)
		if ok && (strings.HasPrefix(item, "ssh-") || strings.HasPrefix(item, "ecdsa-")) {
			s.SSHKeys = append(s.SSHKeys, item)
		}
	}
	return s
}

// writeFiles writes the files of a #cloud-config; other user-data has none.
func writeFiles(user string) error {
	if !strings.HasPrefix(user, "#cloud-config") {
		return nil
	}
	files, err := userdata.Files(user)
	for _, f := range files {
		err = errors.Join(err, os.MkdirAll(filepath.Dir(f.Path), 0o755), os.WriteFile(f.Path, []byte(f.Content), f.Mode))
	}
	return err
}

// sentryc keeps the viewers' server of image koshien running, once user-data has
// configured it.
func sentryc() {
	const program, conf = "/bin/sentryc", "/etc/sentryc/sentryc.toml"
	for _, path := range []string{program, conf} {
		if _, err := os.Stat(path); err != nil {
			return
		}
	}
	for {
		c := exec.Command(program, "run", "-c", conf)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		warn("sentryc has ended", c.Run())
		time.Sleep(time.Second)
	}
}

// findSeed looks for a disk with an ISO 9660 volume called cidata (ECMA-119 8.4:
// the descriptor is sector 16, the volume's name at byte 40 of it).
func findSeed() string {
	disks, _ := filepath.Glob("/sys/block/*")
	for _, d := range disks {
		dev := "/dev/" + filepath.Base(d)
		f, err := os.Open(dev)
		if err != nil {
			continue
		}
		var b [72]byte
		_, err = f.ReadAt(b[:], 16*2048)
		f.Close()
		if err == nil && string(b[1:6]) == "CD001" && strings.EqualFold(strings.TrimSpace(string(b[40:72])), "cidata") {
			return dev
		}
	}
	return ""
}

// powerButton turns the machine off when the hypervisor presses the ACPI button
// (a key event, linux/input.h).
func powerButton() {
	const keyPower, evKey, eventSize = 116, 1, 24
	files, _ := filepath.Glob("/dev/input/event*")
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		go func() {
			var e [eventSize]byte
			for {
				if n, err := f.Read(e[:]); err != nil || n < eventSize {
					return
				}
				kind := *(*uint16)(unsafe.Pointer(&e[16]))
				code := *(*uint16)(unsafe.Pointer(&e[18]))
				value := *(*int32)(unsafe.Pointer(&e[20]))
				if kind == evKey && code == keyPower && value == 1 {
					poweroff()
				}
			}
		}()
	}
}

func poweroff() {
	fmt.Println("power off")
	syscall.Sync()
	warn("power off", syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
}

// loadModules loads the modules a file lists, in its order.
func loadModules(list string) {
	const sysFinitModule = 313
	for _, name := range strings.Fields(read(list)) {
		f, err := os.Open("/modules/" + name)
		if err != nil {
			warn("load module", err)
			continue
		}
		empty := [1]byte{}
		_, _, errno := syscall.Syscall(sysFinitModule, f.Fd(), uintptr(unsafe.Pointer(&empty)), 0)
		f.Close()
		if errno != 0 && errno != syscall.EEXIST {
			warn("load module "+name, errno)
		}
	}
}

// stdio points the standard streams to the console.
func stdio() {
	fd, err := syscall.Open("/dev/console", syscall.O_RDWR, 0)
	if err != nil {
		return
	}
	for i := range 3 {
		syscall.Dup2(fd, i)
	}
}

func warn(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "guest: %s: %v\n", what, err)
	}
}

func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

func write(path, text string) { warn("write "+path, os.WriteFile(path, []byte(text), 0o644)) }
