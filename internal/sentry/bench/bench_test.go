package main

import (
	"os"
	"strings"
	"testing"
)

func TestParseWrk(t *testing.T) {
	const good = "Running 1s test @ http://x/\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n  11038 requests in 1.00s, 320.11MB read\nRequests/sec:  11020.50\nTransfer/sec:    319.60MB\n"
	if n, rate, err := parseWrk(good); err != nil || n != 11038 || rate != 11020.5 {
		t.Errorf("%v, %v, %v", n, rate, err)
	}
	for _, bad := range []string{"", "unable to connect to x", good + "  Non-2xx or 3xx responses: 5\n", good + "  Socket errors: connect 0, read 3, write 0, timeout 0\n"} {
		if _, _, err := parseWrk(bad); err == nil {
			t.Errorf("%q is good", bad)
		}
	}
}

var work string

func TestMeters(t *testing.T) {
	before, err := cpu(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for after := before; after == before; {
		work = strings.Repeat("x", 1<<20) // until it has cost something
		if after, err = cpu(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := resident(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("%v bytes, %v", n, err)
	}
	if _, err := kilobytes("VmSize: 5 kB", "VmRSS:"); err == nil {
		t.Error("what is not there is found")
	}
	if q := quantile([]float64{3, 1, 2, 4}, 0.99); q != 4 {
		t.Errorf("quantile %v", q)
	}
	if m := median([]float64{3, 1, 2}); m != 2 {
		t.Errorf("median %v", m)
	}
}

func TestContentLength(t *testing.T) {
	if n, err := contentLength([]byte("HTTP/1.1 200 OK\r\nContent-Length: 30000\r\nX: y\r\n")); err != nil || n != 30000 {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n"} {
		if _, err := contentLength([]byte(bad)); err == nil {
			t.Errorf("%q has a length", bad)
		}
	}
}
