package main

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"widecloud/internal/config"
	"widecloud/internal/doctor"
	"widecloud/internal/wire"
)

// machineOf is what the doctor looks at beside a site's objects: the controller's certificates, store and disks. What cannot be read is
// left out.
func machineOf(site *config.Site, authority *wire.Authority, api *tls.Config) (m doctor.Machine) {
	m.Certificates = append(m.Certificates, doctor.Certificate{Name: "the site's own authority", Ends: authority.Certificate().NotAfter,
		Renew: "hosts and peers have to be joined again by a new one: plan for it"})
	if ends, ok := webCertificate(site, api); ok {
		m.Certificates = append(m.Certificates, doctor.Certificate{Name: "the API's certificate", Ends: ends, Renew: map[string]string{
			"files": "renew api.certificate and api.key: the files are read again by themselves",
			"acme":  "it is renewed by itself 30 days before its end: the controller's log says why it was not",
			"site":  "start the controller again: it makes a new one",
		}[site.API.TLS]})
	}
	if info, err := os.Stat(filepath.Join(site.DataDir, "store.db")); err == nil {
		m.StoreBytes = info.Size()
	}
	for _, d := range []doctor.Disk{{What: "the store", Path: site.DataDir}, {What: "images", Path: site.Volumes.Dir, Reserve: int64(site.Volumes.Reserve)}} {
		var st syscall.Statfs_t
		if syscall.Statfs(d.Path, &st) != nil {
			continue
		}
		d.Free, d.Total = int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
		m.Disks = append(m.Disks, d)
	}
	return m
}

// webCertificate tells until when the API's certificate is good; false: it has none, or none yet.
func webCertificate(site *config.Site, api *tls.Config) (time.Time, bool) {
	switch {
	case api == nil:
		return time.Time{}, false
	case len(api.Certificates) > 0:
		return endOf(&api.Certificates[0])
	case site.API.TLS == "files" && api.GetCertificate != nil:
		c, err := api.GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			return time.Time{}, false
		}
		return endOf(c)
	}
	// Asking an ACME client could make it order one: what it has kept is read instead.
	var last time.Time
	for _, domain := range site.API.ACME.Domains {
		pair, err := tls.LoadX509KeyPair(filepath.Join(site.DataDir, "acme", domain), filepath.Join(site.DataDir, "acme", domain))
		if err != nil {
			continue
		}
		if ends, ok := endOf(&pair); ok && (last.IsZero() || ends.Before(last)) {
			last = ends
		}
	}
	return last, !last.IsZero()
}

func endOf(c *tls.Certificate) (time.Time, bool) {
	leaf := c.Leaf
	if leaf == nil && len(c.Certificate) > 0 {
		leaf, _ = x509.ParseCertificate(c.Certificate[0])
	}
	if leaf == nil {
		return time.Time{}, false
	}
	return leaf.NotAfter, true
}
