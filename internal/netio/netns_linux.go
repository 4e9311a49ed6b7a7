package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NamedDir is where named network namespaces are kept, as iproute2 does.
const NamedDir = "/run/netns"

// NS is an open network namespace. It is safe for concurrent use, and stays
// usable until Close even if its name is deleted meanwhile.
type NS struct {
	name string
	fd   netns.NsHandle
	h    *netlink.Handle // requests act in this namespace
	once sync.Once
}

// CreateNS makes a new network namespace and names it; its loopback is up.
// It fails with fs.ErrExist when the name is taken.
func CreateNS(name string) (*NS, error) {
	if err := checkNSName(name); err != nil {
		return nil, fmt.Errorf("create namespace: %w", err)
	}
	if err := prepareNamedDir(); err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", name, err)
	}
	path := filepath.Join(NamedDir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", name, err)
	}
	f.Close()
	err = onThrowAwayThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		return unix.Mount(self, path, "bind", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("create namespace %s: %w", name, err)
	}
	ns, err := OpenNS(name)
	if err != nil {
		DeleteNS(name)
		return nil, err
	}
	if err := ns.SetUp("lo"); err != nil {
		ns.Close()
		DeleteNS(name)
		return nil, err
	}
	return ns, nil
}

// OpenNS opens a named namespace; fs.ErrNotExist if there is none.
func OpenNS(name string) (*NS, error) {
	if err := checkNSName(name); err != nil {
		return nil, fmt.Errorf("open namespace: %w", err)
	}
	ns, err := openNSPath(name, filepath.Join(NamedDir, name))
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", name, err)
	}
	return ns, nil
}

// CurrentNS opens the namespace that the process was started in.
func CurrentNS() (*NS, error) {
	ns, err := openNSPath("", "/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open own namespace: %w", err)
	}
	return ns, nil
}

// NSOf opens the namespace that a process is in.
func NSOf(pid int) (*NS, error) {
	ns, err := openNSPath("", fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("open namespace of process %d: %w", pid, err)
	}
	return ns, nil
}

func openNSPath(name, path string) (*NS, error) {
	fd, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	h, err := netlink.NewHandleAt(fd, unix.NETLINK_ROUTE)
	if err != nil {
		fd.Close()
		return nil, err
	}
	return &NS{name: name, fd: fd, h: h}, nil
}

// DeleteNS removes a namespace's name. The namespace itself goes when the last
// process and open handle in it are gone. fs.ErrNotExist if there is none.
func DeleteNS(name string) error {
	if err := checkNSName(name); err != nil {
		return fmt.Errorf("delete namespace: %w", err)
	}
	path := filepath.Join(NamedDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return nil
}

// ListNS returns the names of all named namespaces, sorted.
func ListNS() ([]string, error) {
	entries, err := os.ReadDir(NamedDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	sort.Strings(names)
	return names, nil
}

// Name returns the name the namespace was opened by; empty for CurrentNS.
func (n *NS) Name() string { return n.name }

// Close releases the handle. The namespace lives on as long as it has a name
// or a process.
func (n *NS) Close() error {
	var err error
	n.once.Do(func() {
		n.h.Close()
		err = n.fd.Close()
	})
	return err
}

// Do runs f on a thread that is inside the namespace: sockets that f opens and
// processes that f starts belong to it. f must not start goroutines that are
// meant to be inside, for they would not be.
func (n *NS) Do(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		was, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			errc <- fmt.Errorf("enter namespace %s: %w", n.name, err)
			return
		}
		defer was.Close()
		if err := netns.Set(n.fd); err != nil {
			runtime.UnlockOSThread()
			errc <- fmt.Errorf("enter namespace %s: %w", n.name, err)
			return
		}
		err = f()
		// Back to where the thread was; if that fails, the goroutine ends
		// locked and the runtime destroys the thread. (Restoring rather than
		// always destroying keeps a child's parent-death signal from firing.)
		if netns.Set(was) == nil {
			runtime.UnlockOSThread()
		}
		errc <- err
	}()
	return <-errc
}

// InProcess runs f on a throw-away thread that is inside all the namespaces
// (network, mount, UTS, IPC, and PID for children) and the root directory of
// process pid. A process that f starts is inside them, yet is a child of the
// caller, who can wait for it and signal it. A parent-death signal must not be
// set on it: the thread ends when f returns.
func InProcess(pid int, f func() error) error {
	type nsFile struct {
		kind string
		flag int
	}
	kinds := []nsFile{
		{"uts", unix.CLONE_NEWUTS}, {"ipc", unix.CLONE_NEWIPC}, {"net", unix.CLONE_NEWNET},
		{"pid", unix.CLONE_NEWPID}, {"mnt", unix.CLONE_NEWNS}, // mnt last: it changes what /proc is
	}
	fds := make([]int, len(kinds))
	for i, k := range kinds {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, k.kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			for _, fd := range fds[:i] {
				unix.Close(fd)
			}
			return fmt.Errorf("enter process %d: %w", pid, err)
		}
		fds[i] = fd
	}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	return onThrowAwayThread(func() error {
		// Threads of a Go program share root and working directory; a thread
		// may only change its mount namespace once it has its own.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("enter process %d: %w", pid, err)
		}
		for i, k := range kinds {
			if err := unix.Setns(fds[i], k.flag); err != nil {
				return fmt.Errorf("enter process %d's %s namespace: %w", pid, k.kind, err)
			}
		}
		return f()
	})
}

// onThrowAwayThread runs f on a thread that ends with it, so that f may move the
// thread into other namespaces for good.
func onThrowAwayThread(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread
		if unix.Gettid() != unix.Getpid() {
			errc <- f()
			return
		}
		// The main thread cannot end: the runtime would park it for ever where f
		// left it, and /proc/self of the whole program would show that place. While
		// it is locked here, another goroutine gets another thread.
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			errc <- f()
		}()
		<-done
		runtime.UnlockOSThread()
	}()
	return <-errc
}

func checkNSName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("bad namespace name %q", name)
	}
	return nil
}

// prepareNamedDir makes NamedDir a shared mount point, as iproute2 does, so
// that names made by either are seen in every mount namespace that shares it.
func prepareNamedDir() error {
	if err := os.MkdirAll(NamedDir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", NamedDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := unix.Mount(NamedDir, NamedDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount("", NamedDir, "none", unix.MS_SHARED|unix.MS_REC, "")
}
