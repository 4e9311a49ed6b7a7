package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"widecloud/internal/lab/stream"
)

// dataPartition is what /disk writes: raw, without a file system.
const dataPartition = "/dev/vda2"

// disks are the sizes in bytes of the disks with a serial number, and their devices.
func disks() (sizes map[string]int64, devices map[string]string) {
	sizes, devices = map[string]int64{}, map[string]string{}
	blocks, _ := filepath.Glob("/sys/block/vd*")
	for _, b := range blocks {
		serial := strings.TrimSpace(read(b + "/serial"))
		sectors, err := strconv.ParseInt(strings.TrimSpace(read(b+"/size")), 10, 64) // of 512 bytes, whatever the disk's are
		if serial != "" && err == nil {
			sizes[serial], devices[serial] = sectors*512, "/dev/"+filepath.Base(b)
		}
	}
	return sizes, devices
}

// dataDevice is what /disk writes: the disk of a name, or without one the partition.
func dataDevice(name string) (string, error) {
	if name == "" {
		return dataPartition, nil
	}
	_, devices := disks()
	if devices[name] == "" {
		return "", fmt.Errorf("there is no disk %s", name)
	}
	return devices[name], nil
}

func (g *guest) serve() {
	var (
		requests atomic.Int64
		mux      = http.NewServeMux()
		d        dirtier
		disk     sync.Mutex
	)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		host, _ := os.Hostname()
		fmt.Fprintf(w, "widecloud guest %s\nboot-id %s\nuptime %.3f\nrequests %d\n", host, g.boot, time.Since(g.start).Seconds(), requests.Load())
	})
	mux.HandleFunc("GET /boot", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, g.boot) })
	mux.HandleFunc("GET /clock", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "{\"monotonicNs\":%d,\"realtimeNs\":%d}\n", time.Since(g.start).Nanoseconds(), time.Now().UnixNano())
	})
	mux.HandleFunc("GET /addrs", func(w http.ResponseWriter, r *http.Request) {
		for _, a := range addrs() {
			fmt.Fprintln(w, a)
		}
	})
	mux.HandleFunc("GET /seed", func(w http.ResponseWriter, r *http.Request) {
		g.seed.mu.Lock()
		defer g.seed.mu.Unlock()
		json.NewEncoder(w).Encode(&g.seed)
	})
	mux.HandleFunc("GET /stream", stream.Serve)
	mux.HandleFunc("POST /dirty", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		mb, err1 := number(q, "mb", 0)
		rate, err2 := number(q, "rate", 0)
		if err1 != nil || err2 != nil {
			http.Error(w, "mb and rate (bytes a second) must be numbers", http.StatusBadRequest)
			return
		}
		d.set(0, 0) // what is written now is given back first
		if free, err := available(); err != nil || mb > free-spareMiB {
			http.Error(w, fmt.Sprintf("mb is more than the %d MiB that are free, without the %d that the guest needs (%v)", free, spareMiB, err), http.StatusInsufficientStorage)
			return
		}
		d.set(int(mb)<<20, rate)
		fmt.Fprintf(w, "dirtying %d MiB at %d bytes a second\n", mb, rate)
	})
	mux.HandleFunc("PUT /disk", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		mb, err1 := number(q, "mb", 1)
		seed, err2 := number(q, "seed", 0)
		if err1 != nil || err2 != nil {
			http.Error(w, "mb and seed must be numbers", http.StatusBadRequest)
			return
		}
		disk.Lock()
		defer disk.Unlock()
		answer(w, func() (string, error) { return writeDisk(q.Get("name"), mb, uint64(seed)) })
	})
	mux.HandleFunc("GET /disk", func(w http.ResponseWriter, r *http.Request) {
		mb, err := number(r.URL.Query(), "mb", 1)
		if err != nil {
			http.Error(w, "mb must be a number", http.StatusBadRequest)
			return
		}
		disk.Lock()
		defer disk.Unlock()
		answer(w, func() (string, error) { return hashDisk(r.URL.Query().Get("name"), mb) })
	})
	mux.HandleFunc("GET /disks", func(w http.ResponseWriter, r *http.Request) {
		sizes, _ := disks()
		for _, name := range slices.Sorted(maps.Keys(sizes)) {
			fmt.Fprintln(w, name, sizes[name])
		}
	})
	mux.HandleFunc("POST /poweroff", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "power off")
		time.AfterFunc(100*time.Millisecond, poweroff)
	})
	s := &http.Server{Addr: ":80", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		mux.ServeHTTP(w, r)
	})}
	warn("serve", s.ListenAndServe())
}

// spareMiB is what the guest keeps for itself: without it, the kernel would kill
// its only process.
const spareMiB = 8

// available is the memory in MiB that can still be had (proc_meminfo(5)).
func available() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if size, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(size), " kB"), 10, 64)
			return kib >> 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

func number(q url.Values, key string, otherwise int64) (int64, error) {
	if !q.Has(key) {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(q.Get(key), 10, 64)
	if err == nil && n < 0 {
		err = strconv.ErrRange
	}
	return n, err
}

func answer(w http.ResponseWriter, f func() (string, error)) {
	text, err := f()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, text)
}

// dirtier writes memory at a rate.
type dirtier struct {
	mu   sync.Mutex
	stop chan struct{}
	done chan struct{} // closed when the memory is given back
}

func (d *dirtier) set(size int, rate int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stop != nil {
		close(d.stop)
		<-d.done
		d.stop = nil
	}
	if size == 0 {
		return
	}
	stop, done := make(chan struct{}), make(chan struct{})
	d.stop, d.done = stop, done
	go func() {
		defer close(done)
		// Outside Go's heap, so that it is given back at once when it ends.
		mem, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS)
		if err != nil {
			warn("dirty", err)
			return
		}
		defer syscall.Munmap(mem)
		var (
			random  = rand.NewPCG(1, 2)
			start   = time.Now()
			written int64
			at      int
		)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if rate > 0 && float64(written) > time.Since(start).Seconds()*float64(rate) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			for i := at; i < at+4096; i += 8 {
				binary.LittleEndian.PutUint64(mem[i:], random.Uint64())
			}
			at = (at + 4096) % size
			written += 4096
		}
	}()
}

func writeDisk(name string, mb int64, seed uint64) (string, error) {
	device, err := dataDevice(name)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var (
		random = rand.NewPCG(seed, seed)
		h      = sha256.New()
		b      = make([]byte, 1<<20)
	)
	for range mb {
		for i := 0; i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], random.Uint64())
		}
		if _, err := f.Write(b); err != nil {
			return "", err
		}
		h.Write(b)
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

func hashDisk(name string, mb int64) (string, error) {
	device, err := dataDevice(name)
	if err != nil {
		return "", err
	}
	f, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer f.Close()
	const blkFlsBuf = 0x1261 // forget what is cached: the disk is asked
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), blkFlsBuf, 0); errno != 0 {
		return "", errno
	}
	h := sha256.New()
	if _, err := io.CopyN(h, f, mb<<20); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

func addrs() []string {
	nic, err := net.InterfaceByName("eth0")
	if err != nil {
		return nil
	}
	list, _ := nic.Addrs()
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

// console is a few commands on a terminal.
func (g *guest) console(path string) {
	tty, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		warn("console", err)
		return
	}
	host, _ := os.Hostname()
	prompt := func() { fmt.Fprintf(tty, "%s# ", host) }
	fmt.Fprintf(tty, "\r\nwidecloud guest %s ready\r\n", host)
	prompt()
	lines := bufio.NewScanner(tty)
	for lines.Scan() {
		switch cmd := strings.TrimSpace(lines.Text()); cmd {
		case "":
		case "help":
			fmt.Fprintln(tty, "help  ip  uptime  hostname  poweroff")
		case "ip":
			fmt.Fprintln(tty, strings.Join(addrs(), "\n"))
		case "uptime":
			fmt.Fprintf(tty, "up %.1f s, boot id %s\n", time.Since(g.start).Seconds(), g.boot)
		case "hostname":
			fmt.Fprintln(tty, host)
		case "poweroff":
			poweroff()
		default:
			fmt.Fprintf(tty, "%s: no such command; try help\n", cmd)
		}
		prompt()
	}
}
