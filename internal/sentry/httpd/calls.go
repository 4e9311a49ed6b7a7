package httpd

import (
	"syscall"
	"unsafe"
)

// The calls of a connection's loop, on sockets that do not block. They are made without a word to Go's scheduler, as
// they are over before it could do anything about it. Told of each, it has a thread look every 20 us whether a call
// has blocked, and that thread took a tenth of the processor.

// read reads what has come.
func read(fd uintptr, b []byte) (int, error) {
	return result(syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))))
}

// send sends what the socket takes of b. more: what follows belongs into the same segment.
func send(fd uintptr, b []byte, more bool) (int, error) {
	flags := uintptr(syscall.MSG_NOSIGNAL)
	if more {
		flags |= msgMore
	}
	return result(syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0))
}

// msgMore is MSG_MORE of send(2), which package syscall does not have.
const msgMore = 0x8000

// sendfile sends what the socket takes of n bytes of a file in memory, from off on, which it moves.
func sendfile(fd uintptr, file int, off *int64, n int) (int, error) {
	return result(syscall.RawSyscall6(syscall.SYS_SENDFILE, fd, uintptr(file), uintptr(unsafe.Pointer(off)), uintptr(n), 0, 0))
}

func result(n, _ uintptr, errno syscall.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
