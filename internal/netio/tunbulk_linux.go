package netio

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// bulk gives the thread that reads a queue another priority while the queue
// carries super-packets.
//
// Streams were measured to cost 5 to 15 % less of all CPU time when the reader takes
// super-packets at once (docs/map646.md). The likely cause, not proven: they are
// still in the caches of the CPU that made them. Small packets are the other way
// round, a third dearer: a reader that takes the CPU from their sender is woken for
// each of them, where a patient one finds several.
type bulk struct {
	bulkNice int // 0: none
	mean     int // of the last packets' bytes, more or less
	heavy    bool
	tied     bool // the reader is locked to its thread
	own      int  // the thread's nice value otherwise
}

// A queue carries bulk from a mean of bulkFrom bytes on, until it is below bulkTo.
const (
	bulkFrom = 16 << 10
	bulkTo   = 4 << 10
)

// weigh takes note of a packet of n bytes.
func (b *bulk) weigh(n int) {
	if b.bulkNice == 0 {
		return
	}
	b.mean += (n - b.mean) / 16
	switch {
	case !b.heavy && b.mean >= bulkFrom:
		b.heavy = true
		b.prefer(b.bulkNice)
	case b.heavy && b.mean < bulkTo:
		b.heavy = false
		b.prefer(b.own)
	}
}

// prefer sets the reader's nice value. What has worked when the device was opened
// is not expected to fail, and costs no more than speed if it does.
func (b *bulk) prefer(nice int) {
	if !b.tied {
		// A thread with another nice value must not come to other goroutines.
		runtime.LockOSThread()
		b.tied = true
		var err error
		if b.own, err = threadNice(); err != nil {
			b.own = 0
		}
	}
	if b.own > b.bulkNice {
		_ = setThreadNice(nice)
	}
}

// leave is for a reader that reads no more; the next one may be another.
func (b *bulk) leave() {
	if b.heavy {
		b.prefer(b.own)
	}
	*b = bulk{bulkNice: b.bulkNice}
}

// The kernel takes 0 for the calling thread, not for its process.
func setThreadNice(nice int) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, nice) }

func threadNice() (int, error) {
	n, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	return 20 - n, err // the system call gives 1 to 40, for want of negative results
}

// mayPrefer tells why the process's threads may not have a nice value; nil if they
// may, or for 0.
func mayPrefer(nice int) error {
	if nice == 0 {
		return nil
	}
	result := make(chan error)
	go func() {
		// Until the thread is as it was, or for good. (The main thread does not end with
		// a goroutine that keeps it, but stays as it is.)
		runtime.LockOSThread()
		own, err := threadNice()
		if err == nil {
			err = setThreadNice(nice)
		}
		if err != nil || setThreadNice(own) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	if err := <-result; err != nil {
		return fmt.Errorf("set nice value %d: %w", nice, err)
	}
	return nil
}
