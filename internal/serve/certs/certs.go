// Package certs has the certificates of the API's port that do not come from the site's own authority: files that
// somebody else renews, or those of an ACME server (RFC 8555), such as Let's Encrypt.
//
// Invariants:
//   - a certificate that is renewed is used without a restart, and one that cannot be read leaves the old one in use;
//   - an ACME server is asked for the names of the configuration only, whatever names clients ask for.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// lookEvery is how often at most the files are looked at.
const lookEvery = 10 * time.Second

// files is a certificate and its key in two files.
type files struct {
	certificate, key string
	log              *slog.Logger

	mu     sync.Mutex
	pair   *tls.Certificate
	read   [2]time.Time // when the files that were read last were written
	looked time.Time
}

// Files serves a certificate with its key from two PEM files, and reads them again when they have changed. The error says
// why they cannot be used now.
func Files(certificate, key string, log *slog.Logger) (*tls.Config, error) {
	f := &files{certificate: certificate, key: key, log: log}
	if err := f.load(); err != nil {
		return nil, err
	}
	return &tls.Config{GetCertificate: f.get, MinVersion: tls.VersionTLS12}, nil
}

// written is when the two files were written.
func (f *files) written() (at [2]time.Time, err error) {
	for i, name := range []string{f.certificate, f.key} {
		st, err := os.Stat(name)
		if err != nil {
			return at, err
		}
		at[i] = st.ModTime()
	}
	return at, nil
}

// load reads the files.
func (f *files) load() error {
	at, err := f.written()
	if err != nil {
		return err
	}
	f.read = at // one that cannot be read is not tried again until it has changed
	pair, err := tls.LoadX509KeyPair(f.certificate, f.key)
	if err != nil {
		return err
	}
	f.pair = &pair
	return nil
}

func (f *files) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= lookEvery {
		f.looked = now
		f.look()
	}
	return f.pair, nil
}

// look reads the files again if they have changed.
func (f *files) look() {
	at, err := f.written()
	if err == nil && at == f.read {
		return
	}
	if err == nil {
		err = f.load()
	}
	if err != nil {
		f.log.Warn("the renewed certificate of the API cannot be used: the one before stays", "certificate", f.certificate, "err", err)
		return
	}
	f.log.Info("the API has a renewed certificate", "certificate", f.certificate, "until", f.pair.Leaf.NotAfter)
}

// ACME is where certificates come from.
type ACME struct {
	Domains   []string       // DNS names; others are refused
	Directory string         // URL of the server's directory; empty: Let's Encrypt
	Email     string         // whom the server tells of trouble; may be empty
	Dir       string         // where the account and the certificates are kept; it is made if missing
	Roots     *x509.CertPool // that the server's own certificate is held against; nil: the system's
	Logger    *slog.Logger
}

// Serve gets the certificates, at once and then when they are due, from now until ctx ends. The server proves the names by
// TLS-ALPN-01 (RFC 8737): it dials port 443 of each name, which must lead to the port that has this configuration.
func (a ACME) Serve(ctx context.Context) *tls.Config {
	m := &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(a.Dir), HostPolicy: autocert.HostWhitelist(a.Domains...), Email: a.Email,
		Client: &acme.Client{DirectoryURL: a.Directory, UserAgent: "widecloud"},
	}
	if a.Roots != nil {
		m.Client.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Roots}}}
	}
	for _, domain := range a.Domains {
		go a.fetch(ctx, m, domain)
	}
	c := m.TLSConfig()
	c.NextProtos = []string{acme.ALPNProto}
	c.MinVersion = tls.VersionTLS12
	return c
}

// fetch gets a name's certificate before the first client asks for it, and tries until it has one.
func (a ACME) fetch(ctx context.Context, m *autocert.Manager, domain string) {
	for wait := time.Second; ; wait = min(2*wait, time.Hour) {
		pair, err := m.GetCertificate(&tls.ClientHelloInfo{ServerName: domain, CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256}, SupportedVersions: []uint16{tls.VersionTLS13},
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256}})
		if err == nil {
			a.Logger.Info("the API has a certificate", "domain", domain, "until", pair.Leaf.NotAfter)
			return
		}
		a.Logger.Warn("no certificate for the API yet", "domain", domain, "err", err, "again_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
