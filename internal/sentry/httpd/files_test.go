package httpd_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// inMemory counts this process's open files of newest stills.
func inMemory(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "/dev/shm/sentryc-") {
			n++
		}
	}
	return n
}

// TestStillsWhileNewerOnesCome: a reader that takes its time gets the still that it was promised to the end, whatever has
// come since, and a file is open no longer than it is needed.
func TestStillsWhileNewerOnesCome(t *testing.T) {
	w := start(t, false, nil)
	// Each is of another letter; ten of them do not fit into the kernel's buffers.
	add := func(n uint64) {
		s := picture(n, 0)
		s.JPEG = append(append(s.JPEG[:len(s.JPEG)-2:len(s.JPEG)-2], bytes.Repeat([]byte{'a' + byte(n)}, 900_000)...), 0xff, 0xd9)
		if err := w.reel.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	const asked = 10
	var readers []*bufio.Reader
	for n := uint64(1); n <= 5; n++ {
		add(n)
		c, r := w.dial()
		for range asked {
			fmt.Fprintf(c, "GET /stills/a/0/newest.jpg HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		if _, err := r.Peek(1); err != nil {
			t.Fatal(err)
		}
		readers = append(readers, r)
	}
	for i, r := range readers {
		last := i // of number i+1 at least
		for range asked {
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			if err != nil || len(b) < 900_000 {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			letter := b[len(b)-3]
			if n := int(letter - 'a'); n <= last-1 || n > 5 || bytes.Count(b, []byte{letter}) < 900_000 || !strings.HasPrefix(res.Header.Get("Still"), fmt.Sprint(n)) {
				t.Errorf("reader %d: still %q, of letter %q", i, res.Header.Get("Still"), letter)
			} else {
				last = n
			}
		}
	}
	w.eventually("one file is open", func() bool { return inMemory(t) <= 1 })
	w.s.Close()
	if n := inMemory(t); n != 0 {
		t.Errorf("%d files are open after Close", n)
	}
}
