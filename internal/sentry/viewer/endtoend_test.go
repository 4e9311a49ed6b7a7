package viewer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/station"
	"widecloud/internal/sentry/studio"
)

// TestEndToEnd: sentryd's test picture gets to a viewer by sentryc, by each transport, and by UDP over a line that loses
// 5 % of the datagrams: no still is lost, and the viewer sees one after the other.
func TestEndToEnd(t *testing.T) {
	for _, c := range []struct {
		transport string
		loss      float64
	}{{"udp", 0}, {"udp", 0.05}, {"tcp", 0}, {"tls", 0}} {
		t.Run(fmt.Sprintf("%s, loss %v", c.transport, c.loss), func(t *testing.T) {
			dir := t.TempDir()
			file := func(name, text string) string {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			keyFile := file("key", cast.NewKey().Text())
			conf := station.Default()
			conf.Web.Listen, conf.Web.Drain.Duration, conf.Admin.Listen = []string{"127.0.0.1:0"}, 0, ""
			conf.Receive.Keys = []string{keyFile}
			here := []string{"127.0.0.1:0"}
			more := ""
			switch c.transport {
			case "udp":
				conf.Receive.UDP = here
			case "tcp":
				conf.Receive.TCP = here
			case "tls":
				conf.Receive.TLS = here
				cert, key := certificate(t)
				conf.TLS.Certificate, conf.TLS.Key = file("cert.pem", cert), file("key.pem", key)
				more = fmt.Sprintf("ca = %q\n", conf.TLS.Certificate)
			}
			there, err := station.New(conf, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			address := there.Entrances()[0].String()
			lost := func() int { return 1 }
			if c.loss > 0 {
				address, lost = line(t, address, c.loss)
			}
			sc, err := studio.Load(file("sentryd.toml", fmt.Sprintf("[channel.a]\nsource = \"pattern\"\nrate = 10\n"+
				"sizes = [{ width = 640, height = 360, bytes = \"30KiB\" }]\n[admin]\nlisten = \"\"\n"+
				"[receiver.b]\naddress = %q\ntransport = %q\nkey_file = %q\n%s", address, c.transport, keyFile, more)))
			if err != nil {
				t.Fatal(err)
			}
			sender, err := studio.New(sc, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			for _, run := range []func(context.Context) error{there.Run, sender.Run} {
				wg.Go(func() {
					if err := run(ctx); err != nil {
						t.Error(err)
					}
				})
			}
			t.Cleanup(func() { cancel(); wg.Wait() })
			seen, _ := watch(t, &server{url: "http://" + there.Addresses()[0].String()})
			for last := uint64(0); ; {
				got := next(t, seen)
				if got.Number <= last {
					t.Fatalf("still %d came after %d", got.Number, last)
				}
				last = got.Number
				// What a busy machine does not cut, or a viewer does not ask for in time, is not lost on the way.
				state := sender.State()
				if r := state.Receivers; len(r) == 1 && r[0].Stills >= 20 && lost() > 0 {
					if d := state.Destinations[0]; r[0].Lost > d.Skipped+d.Failed {
						t.Errorf("%d stills were lost, of which %d were not sent", r[0].Lost, d.Skipped+d.Failed)
					}
					break
				}
			}
		})
	}
}

// line is a way to a UDP address that loses a part of the datagrams to it, and tells how many.
func line(t *testing.T, to string, loss float64) (address string, lost func() int) {
	t.Helper()
	target := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.DialUDP("udp", nil, target)
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu   sync.Mutex
		from netip.AddrPort
		n    int
		dice = rand.New(rand.NewPCG(5, 5))
		wg   sync.WaitGroup
	)
	wg.Go(func() {
		b := make([]byte, cast.MaxDatagram)
		for {
			size, sender, err := front.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			mu.Lock()
			from = sender
			drop := dice.Float64() < loss
			if drop {
				n++
			}
			mu.Unlock()
			if !drop {
				_, _ = back.Write(b[:size]) // one that does not get through is lost
			}
		}
	})
	wg.Go(func() { // reports
		b := make([]byte, cast.MaxDatagram)
		for {
			size, err := back.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			to := from
			mu.Unlock()
			_, _ = front.WriteToUDPAddrPort(b[:size], to)
		}
	})
	t.Cleanup(func() { front.Close(); back.Close(); wg.Wait() })
	return front.LocalAddr().String(), func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// certificate is one for 127.0.0.1, with its key, in PEM.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(crand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return text("CERTIFICATE", der), text("EC PRIVATE KEY", secret)
}
