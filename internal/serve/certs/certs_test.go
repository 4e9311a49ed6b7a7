package certs_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"widecloud/internal/serve/certs"
)

// pair writes a self-signed certificate for a name, and its key, written at a time.
func pair(t *testing.T, dir, name string, at time.Time) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-24 * 365 * 40 * time.Hour), NotAfter: time.Now().Add(24 * 365 * 40 * time.Hour), // the bubble's time too
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), at)
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), at)
	return certificate, key
}

func write(t *testing.T, path string, b []byte, at time.Time) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// TestFilesRenewed: what renews a certificate need not know of wcc.
func TestFilesRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, start := t.TempDir(), time.Now()
		certificate, key := pair(t, dir, "one.example", start)
		var log bytes.Buffer
		c, err := certs.Files(certificate, key, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		shows := func(when, want, logged string) {
			t.Helper()
			log.Reset()
			time.Sleep(11 * time.Second)
			got, err := c.GetCertificate(&tls.ClientHelloInfo{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Leaf.Subject.CommonName != want || logged == "" && log.Len() > 0 || !strings.Contains(log.String(), logged) {
				t.Errorf("%s: %s is shown, want %s; log: %s", when, got.Leaf.Subject.CommonName, want, &log)
			}
		}
		shows("at first", "one.example", "")
		pair(t, dir, "two.example", start.Add(time.Hour))
		shows("renewed", "two.example", "renewed certificate")
		write(t, key, []byte("half a k"), start.Add(2*time.Hour))
		shows("while the key is written", "two.example", "cannot be used")
		shows("and said once", "two.example", "")
		pair(t, dir, "three.example", start.Add(3*time.Hour))
		shows("when it is whole", "three.example", "renewed certificate")
		if err := os.Remove(certificate); err != nil {
			t.Fatal(err)
		}
		shows("without the file", "three.example", "no such file")
	})
}

func TestFilesMissing(t *testing.T) {
	dir := t.TempDir()
	certificate, key := pair(t, dir, "one.example", time.Now())
	for name, files := range map[string][2]string{
		"no certificate": {filepath.Join(dir, "none"), key},
		"no key":         {certificate, filepath.Join(dir, "none")},
		"exchanged":      {key, certificate},
	} {
		if _, err := certs.Files(files[0], files[1], slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// handshake makes a TLS connection and gives the certificate that is shown.
func handshake(ctx context.Context, addr, name string, roots *x509.CertPool) (*x509.Certificate, error) {
	d := tls.Dialer{Config: &tls.Config{ServerName: name, RootCAs: roots}}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}
