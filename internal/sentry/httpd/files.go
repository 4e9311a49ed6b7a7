package httpd

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"widecloud/internal/sentry/reel"
)

// memory is a directory of a tmpfs, that each Linux has.
const memory = "/dev/shm"

// file is a JPEG in a file without a name on a tmpfs. The kernel sends it without a copy, as it does for nginx.
type file struct {
	fd   int
	refs atomic.Int64 // 0: closed
}

// take makes sure that the file stays open until give; false: it is closed.
func (f *file) take() bool {
	for {
		n := f.refs.Load()
		if n == 0 {
			return false
		}
		if f.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (f *file) give() {
	if f.refs.Add(-1) == 0 {
		_ = syscall.Close(f.fd) // no data can be lost
	}
}

// files are the files of the newest stills, one for each channel and size. A file is made by the first who sends the
// still, and closed when that of a newer one is made.
type files struct {
	mu sync.Mutex
	of map[stillKey]*madeFile
}

type stillKey struct {
	channel string
	size    int
}

// madeFile is the file of a frame; nil when it could not be made.
type madeFile struct {
	frame *reel.Frame
	file  *file
}

// take gives the file of a newest frame, taken; nil: send its bytes.
func (x *files) take(f *reel.Frame) *file {
	p := f.Prepared.(*prepared)
	if m := p.file.Load(); m != nil {
		if m.file != nil && m.file.take() {
			return m.file
		}
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	key := stillKey{f.Channel, f.Size}
	old := x.of[key]
	if old != nil && old.frame.Number >= f.Number {
		return nil
	}
	m := &madeFile{frame: f, file: newFile(f.JPEG)}
	if x.of == nil {
		x.of = map[stillKey]*madeFile{}
	}
	x.of[key] = m
	p.file.Store(m)
	if old != nil && old.file != nil {
		old.file.give()
	}
	if m.file != nil {
		m.file.refs.Add(1)
	}
	return m.file
}

// close closes all files.
func (x *files) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range x.of {
		if m.file != nil {
			m.file.give()
		}
	}
	x.of = nil
}

// newFile makes a file with one reference; nil if there is no room for one: bytes can be sent without it.
func newFile(b []byte) *file {
	f, err := os.CreateTemp(memory, "sentryc-")
	if err != nil {
		return nil
	}
	defer f.Close()
	if os.Remove(f.Name()) != nil {
		return nil
	}
	if _, err := f.Write(b); err != nil {
		return nil
	}
	fd := -1
	raw, err := f.SyscallConn()
	if err != nil || raw.Control(func(old uintptr) { fd, err = dupCloseOnExec(old) }) != nil || err != nil {
		return nil
	}
	x := &file{fd: fd}
	x.refs.Store(1)
	return x
}

// dupCloseOnExec gives a second descriptor of a file.
func dupCloseOnExec(fd uintptr) (int, error) {
	n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
