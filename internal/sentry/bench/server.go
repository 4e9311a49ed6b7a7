package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"widecloud/internal/sentry/httpd"
	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

// jpegOf makes bytes that look like a JPEG from outside, and cannot be compressed.
func jpegOf(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	b[0], b[1], b[n-2], b[n-1] = 0xff, 0xd8, 0xff, 0xd9
	return b
}

// serve is the server's process. It prints its addresses, plain and TLS; each line that it reads adds a still, and it
// prints the time of that in ns.
func serve(ctx context.Context, role string, size int) error {
	r := reel.New(reel.Options{Keep: time.Hour, MaxBytes: 64 << 20, MaxChannels: 1, Now: time.Now, Prepare: httpd.Prepare})
	n := uint64(0)
	add := func() error {
		n++
		return r.Add(still.Still{Channel: "a", Number: n, Taken: time.Now(), Width: 640, Height: 360, JPEG: jpegOf(size)})
	}
	if err := add(); err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair("cert.pem", "key.pem")
	if err != nil {
		return err
	}
	secure := &tls.Config{Certificates: []tls.Certificate{cert}}
	for _, c := range []*tls.Config{nil, secure} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		s, err := httpd.New(httpd.Options{Reel: r, Keep: time.Hour, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), TLS: c, MaxConnections: 1 << 20, MaxPerAddress: 1 << 20,
			PollWait: time.Minute, HeadTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, WriteTimeout: 20 * time.Second, Now: time.Now})
		if err != nil {
			return err
		}
		defer s.Close()
		if role == "nethttp" {
			h := &http.Server{Handler: s.Handler(), TLSConfig: c, IdleTimeout: 5 * time.Minute, ReadHeaderTimeout: 10 * time.Second}
			if c != nil {
				go h.ServeTLS(l, "", "")
			} else {
				go h.Serve(l)
			}
			defer h.Close()
		} else {
			go s.Serve(l)
		}
		fmt.Println(l.Addr())
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() && ctx.Err() == nil {
		at := time.Now()
		if err := add(); err != nil {
			return err
		}
		fmt.Println(at.UnixNano())
	}
	return nil
}

// server is a server's process, with its addresses.
type server struct {
	name          string
	cmd           *exec.Cmd
	plain, secure string // HOST:PORT
	path          string // of the newest still
	in            io.WriteCloser
	out           *bufio.Scanner
}

// stop ends the process.
func (s *server) stop() {
	if s.in != nil {
		s.in.Close()
	}
	_ = s.cmd.Process.Signal(os.Interrupt)
	_ = s.cmd.Wait()
}

// add has the server add a still, and gives the time of that.
func (s *server) add() (time.Time, error) {
	if _, err := io.WriteString(s.in, "\n"); err != nil {
		return time.Time{}, err
	}
	if !s.out.Scan() {
		return time.Time{}, errors.New("the server has ended")
	}
	ns, err := strconv.ParseInt(s.out.Text(), 10, 64)
	return time.Unix(0, ns), err
}

// start starts this program as a server on the first CPU.
func start(dir, role string, size int) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{name: role, path: "/stills/a/0/newest.jpg"}
	s.cmd = exec.Command("taskset", "-c", "0", self, "-role", role, "-bytes", strconv.Itoa(size))
	s.cmd.Dir, s.cmd.Stderr = dir, os.Stderr
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.out = bufio.NewScanner(out)
	for _, to := range []*string{&s.plain, &s.secure} {
		if !s.out.Scan() {
			s.stop()
			return nil, errors.New("the server does not start")
		}
		*to = s.out.Text()
	}
	return s, nil
}

// nginx starts Debian's nginx with one worker on the first CPU, set as fast as it is right for this: sendfile, and a cache
// of open files that looks for a new one every second.
func nginx(dir string, size int) (*server, error) {
	s := &server{name: "nginx", path: "/newest.jpg"}
	if err := os.WriteFile(filepath.Join(dir, "newest.jpg"), jpegOf(size), 0o644); err != nil {
		return nil, err
	}
	for _, to := range []*string{&s.plain, &s.secure} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*to = l.Addr().String()
		l.Close()
	}
	text := `daemon off; pid DIR/pid; error_log DIR/error.log; user root; worker_processes 1; worker_rlimit_nofile 20000;
events { worker_connections 19000; }
http {
	client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
	types { image/jpeg jpg; } access_log off; sendfile on; tcp_nopush on; keepalive_timeout 300s; keepalive_requests 100000000;
	open_file_cache max=100; open_file_cache_valid 1s;
	server {
		listen PLAIN; listen SECURE ssl;
		ssl_certificate DIR/cert.pem; ssl_certificate_key DIR/key.pem; ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		root DIR;
		location = /newest.jpg { add_header Cache-Control "public, max-age=1"; add_header Access-Control-Allow-Origin *; }
	}
}`
	text = strings.NewReplacer("DIR", dir, "PLAIN", s.plain, "SECURE", s.secure).Replace(text)
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	s.cmd = exec.Command("taskset", "-c", "0", "nginx", "-e", filepath.Join(dir, "error.log"), "-c", conf)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for range 500 {
		if c, err := net.Dial("tcp", s.plain); err == nil {
			c.Close()
			return s, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.stop()
	return nil, errors.New("nginx does not answer")
}

// tmpfs makes a directory in memory, with a certificate.
func tmpfs() (dir string, err error) {
	if dir, err = os.MkdirTemp("/dev/shm", "bench-koshien-"); err != nil {
		return "", err
	}
	if err = os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", err
	}
	for name, b := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600); err != nil {
			return "", err
		}
	}
	return dir, nil
}
