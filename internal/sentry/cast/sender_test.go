package cast_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/still"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// together runs all until the test ends.
func together(t *testing.T, all ...func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, f := range all {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// fast is a destination without a limit that a test would notice.
func fast(t *testing.T, name, address string, how cast.Transport) cast.Destination {
	return cast.Destination{Name: name, Address: address, Transport: how, Key: key(t, keyText), Rate: 1e9}
}

// TestTransports: a still gets through by UDP, TCP and TLS on real sockets, and a report back.
func TestTransports(t *testing.T) {
	server, client := certificate(t)
	for _, how := range []cast.Transport{cast.UDP, cast.TCP, cast.TLS} {
		t.Run(string(how), func(t *testing.T) {
			got := make(chan *still.Still, 100)
			r, err := cast.NewReceiver(cast.ReceiverOptions{Name: "tokyo", Keys: []cast.Key{key(t, keyText)}, ReportEvery: time.Millisecond,
				Deliver: func(s *still.Still) { got <- s }})
			if err != nil {
				t.Fatal(err)
			}
			var address string
			var serve func(context.Context) error
			if how == cast.UDP {
				conn, err := cast.ListenUDP("[::1]:0", "")
				if err != nil {
					t.Fatal(err)
				}
				address = conn.LocalAddr().String()
				serve = func(ctx context.Context) error { return r.Serve(ctx, conn) }
			} else {
				l, err := net.Listen("tcp", "[::1]:0")
				if err != nil {
					t.Fatal(err)
				}
				address = l.Addr().String()
				if how == cast.TLS {
					l = tls.NewListener(l, server)
				}
				serve = func(ctx context.Context) error { return r.ServeStreams(ctx, l) }
			}
			d := fast(t, "there", address, how)
			d.TLS = client
			s, err := cast.NewSender(cast.SenderOptions{Destinations: []cast.Destination{d}, Loss: 0.05})
			if err != nil {
				t.Fatal(err)
			}
			together(t, serve, r.Run, s.Run)
			want := picture(mrand.New(mrand.NewPCG(1, 2)), "main", 1, time.Now().UTC().Truncate(time.Microsecond), 30_000)
			if err := s.Send(want); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, <-got); d != "" {
				t.Errorf("-sent +delivered:\n%s", d)
			}
			var stats cast.SenderStats
			for len(stats.Receivers) == 0 || stats.Receivers[0].Stills == 0 || stats.Destinations[0].Stills == 0 {
				time.Sleep(time.Millisecond) // until the report is there
				stats = s.Stats()
			}
			if got := stats.Receivers[0]; got.Name != "tokyo" || got.Destination != "there" || got.Stills != 1 || got.Lost != 0 || got.Delay <= 0 {
				t.Errorf("report: %+v", got)
			}
			if got := stats.Destinations[0]; got.Stills != 1 || got.Address != address || got.Failed+got.Skipped != 0 || got.Trouble != "" {
				t.Errorf("destination: %+v", got)
			}
			parity := stats.Destinations[0].Bytes > 38_000
			if parity != (how == cast.UDP) {
				t.Errorf("%d bytes are sent", stats.Destinations[0].Bytes)
			}
			if n := r.Stats(); n.Datagrams[cast.Used] == 0 || n.Senders[0].Missing != 0 {
				t.Errorf("receiver: %+v", n)
			}
		})
	}
}

// certificate makes a server's and a client's configuration that fit together.
func certificate(t *testing.T) (server, client *tls.Config) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv6loopback}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}}, &tls.Config{RootCAs: pool}
}

// TestStrangersOnStreams: a connection that does not begin with an authentic datagram is closed and counted.
func TestStrangersOnStreams(t *testing.T) {
	r, err := cast.NewReceiver(cast.ReceiverOptions{Keys: []cast.Key{key(t, keyText)}, Deliver: func(*still.Still) { t.Error("a still is delivered") }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	together(t, func(ctx context.Context) error { return r.ServeStreams(ctx, l) })
	for _, first := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x10", "\x00\x40" + string(make([]byte, 64))} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(first)); err != nil {
			t.Fatal(err)
		}
		if len(first) == 18 { // it claims more than it sends
			c.(*net.TCPConn).CloseWrite()
		}
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%q is answered with %d bytes", first, n)
		}
		c.Close()
	}
	if n := r.Stats().Refused; n != 3 {
		t.Errorf("%d connections are refused, want 3", n)
	}
}

// line is a socket of a sender that leads to a function.
type line struct {
	write  func(b []byte, to netip.AddrPort) error
	back   chan []byte
	closed chan struct{}
	once   sync.Once
}

func newLine(write func([]byte, netip.AddrPort) error) *line {
	return &line{write: write, back: make(chan []byte), closed: make(chan struct{})}
}

func (l *line) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return len(b), l.write(b, to)
}
func (l *line) Close() error { l.once.Do(func() { close(l.closed) }); return nil }
func (l *line) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case p := <-l.back:
		return copy(b, p), netip.MustParseAddrPort("[2001:db8::2]:7650"), nil
	case <-l.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

// TestPace: datagrams keep to the destination's rate, and none waits when the line is free.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 1_000_000
		var at []time.Time
		var bits []int
		d := fast(t, "slow", "[2001:db8::2]:7650", cast.UDP)
		d.Rate = rate
		l := newLine(func(b []byte, _ netip.AddrPort) error {
			at, bits = append(at, time.Now()), append(bits, 8*(len(b)+48))
			return nil
		})
		s, err := cast.NewSender(cast.SenderOptions{Destinations: []cast.Destination{d}, Loss: 0.05,
			Packets: func(cast.Destination) (cast.PacketConn, error) { return l, nil }})
		if err != nil {
			t.Fatal(err)
		}
		together(t, s.Run)
		began := time.Now()
		if err := s.Send(picture(mrand.New(mrand.NewPCG(1, 2)), "main", 1, began, 30_000)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		sent := 0
		for i := range at {
			// What was sent before this one must have had the time that the rate gives it, less the slack.
			if least := time.Duration(sent) * time.Second / rate; at[i].Sub(began) < least-2*time.Millisecond || at[i].Sub(began) > least+2*time.Millisecond {
				t.Errorf("datagram %d leaves after %v, at %d bit/s that is due after %v", i, at[i].Sub(began), rate, least)
			}
			sent += bits[i]
		}
		if len(at) < 27 || at[len(at)-1].Equal(began) {
			t.Errorf("%d datagrams, the last after %v", len(at), at[len(at)-1].Sub(began))
		}
	})
}

// TestSlowLine: a slow destination gets the newest still of each stream when its line is free, whole; the others are
// counted as skipped. A fast destination with the same key gets all.
func TestSlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type end struct {
			*line
			numbers map[string][]uint64
			r       *cast.Receiver
		}
		ends := map[string]*end{}
		for _, name := range []string{"slow", "quick"} {
			e := &end{numbers: map[string][]uint64{}}
			var err error
			e.r, err = cast.NewReceiver(cast.ReceiverOptions{Keys: []cast.Key{key(t, keyText)},
				Deliver: func(s *still.Still) { e.numbers[s.Channel] = append(e.numbers[s.Channel], s.Number) }})
			if err != nil {
				t.Fatal(err)
			}
			e.line = newLine(func(b []byte, _ netip.AddrPort) error { e.r.Take(b); return nil })
			ends[name] = e
		}
		slow, quick := fast(t, "slow", "[2001:db8::2]:7650", cast.UDP), fast(t, "quick", "[2001:db8::3]:7650", cast.UDP)
		slow.Rate = 100_000 // a still of 30 kB takes 2.5 s
		s, err := cast.NewSender(cast.SenderOptions{Destinations: []cast.Destination{slow, quick},
			Packets: func(d cast.Destination) (cast.PacketConn, error) { return ends[d.Name].line, nil }})
		if err != nil {
			t.Fatal(err)
		}
		together(t, s.Run)
		r := mrand.New(mrand.NewPCG(1, 2))
		const stills = 20
		for n := range stills {
			for _, channel := range []string{"a", "b"} {
				if err := s.Send(picture(r, channel, uint64(n+1), time.Now(), 30_000)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, channel := range []string{"a", "b"} {
			if n := len(ends["quick"].numbers[channel]); n != stills {
				t.Errorf("channel %s: the quick line has %d stills", channel, n)
			}
			got := ends["slow"].numbers[channel]
			if !slices.IsSorted(got) || len(got) < 3 || len(got) > 6 || got[len(got)-1] != stills {
				t.Errorf("channel %s: the slow line has the stills %v", channel, got)
			}
		}
		for _, d := range s.Stats().Destinations {
			if d.Stills+d.Skipped != 2*stills || d.Failed != 0 || d.Waiting != 0 || (d.Skipped > 0) != (d.Name == "slow") {
				t.Errorf("%+v", d)
			}
		}
	})
}

// TestTrouble: a host without an address and a line that fails are tried again, and Send never waits for them.
func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		known, broken := false, true
		var to []netip.AddrPort
		l := newLine(func(_ []byte, a netip.AddrPort) error {
			mu.Lock()
			defer mu.Unlock()
			if broken {
				return errors.New("no route to host")
			}
			to = append(to, a)
			return nil
		})
		s, err := cast.NewSender(cast.SenderOptions{Destinations: []cast.Destination{fast(t, "far", "sentryc.example:7650", cast.UDP)},
			Packets: func(cast.Destination) (cast.PacketConn, error) { return l, nil },
			Lookup: func(context.Context, string) ([]netip.Addr, error) {
				mu.Lock()
				defer mu.Unlock()
				if !known {
					return nil, errors.New("no such host")
				}
				return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::9")}, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		together(t, s.Run)
		r := mrand.New(mrand.NewPCG(1, 2))
		number := uint64(0)
		send := func() cast.DestinationState {
			number++
			if err := s.Send(picture(r, "a", number, time.Now(), 3000)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			return s.Stats().Destinations[0]
		}
		if d := send(); d.Trouble != "find the address: no such host" || d.Waiting != 1 {
			t.Errorf("without an address: %+v", d)
		}
		mu.Lock()
		known = true
		mu.Unlock()
		if d := send(); d.Trouble != "no route to host" || d.Failed != 1 || d.Skipped != 1 || d.Address != "[2001:db8::9]:7650" {
			t.Errorf("without a route: %+v", d)
		}
		mu.Lock()
		broken = false
		mu.Unlock()
		if d := send(); d.Trouble != "" || d.Stills != 1 || d.Datagrams != uint64(len(to)) || to[0] != netip.MustParseAddrPort("[2001:db8::9]:7650") {
			t.Errorf("with both: %+v", d)
		}
	})
}

// TestReports: reports of strangers, of other sessions and old ones are refused.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports [][]byte
		// The receiver's socket: what it reads comes from the sender, what it writes is kept.
		inbox := make(chan []byte, 1000)
		there := &line{write: func(b []byte, _ netip.AddrPort) error { reports = append(reports, slices.Clone(b)); return nil }, back: inbox, closed: make(chan struct{})}
		r, err := cast.NewReceiver(cast.ReceiverOptions{Name: "osaka", Keys: []cast.Key{key(t, keyText)}, ReportEvery: time.Second, Deliver: func(*still.Still) {}})
		if err != nil {
			t.Fatal(err)
		}
		here := newLine(func(b []byte, _ netip.AddrPort) error { inbox <- slices.Clone(b); return nil })
		s, err := cast.NewSender(cast.SenderOptions{Destinations: []cast.Destination{fast(t, "osaka", "[2001:db8::2]:7650", cast.UDP)},
			Packets: func(cast.Destination) (cast.PacketConn, error) { return here, nil }})
		if err != nil {
			t.Fatal(err)
		}
		together(t, s.Run, r.Run, func(ctx context.Context) error { return r.Serve(ctx, there) })
		random := mrand.New(mrand.NewPCG(1, 2))
		for n := range 2 {
			if err := s.Send(picture(random, "a", uint64(n+1), time.Now(), 3000)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1500 * time.Millisecond)
		}
		time.Sleep(5 * time.Second) // nothing is heard, so nothing is reported
		synctest.Wait()
		if len(reports) != 2 {
			t.Fatalf("%d reports, want 2", len(reports))
		}
		give := func(b []byte) cast.SenderStats { here.back <- b; synctest.Wait(); return s.Stats() }
		if st := give(reports[1]); len(st.Receivers) != 1 || st.Receivers[0].Stills != 2 || st.Refused != 0 {
			t.Errorf("a good report: %+v", st)
		}
		forged := slices.Clone(reports[1])
		forged[60] ^= 1
		for i, b := range [][]byte{reports[0], reports[1], forged, nil, make([]byte, 100)} {
			if st := give(b); st.Receivers[0].Stills != 2 || st.Refused != uint64(i+1) {
				t.Errorf("bad report %d: %+v", i, st)
			}
		}
		time.Sleep(2 * time.Minute)
		if st := s.Stats(); len(st.Receivers) != 0 {
			t.Errorf("a silent receiver is still there: %+v", st)
		}
		// The reports of one session mean nothing to the next.
		time.Sleep(time.Second)
		back := newLine(func([]byte, netip.AddrPort) error { return nil })
		next, err := cast.NewSender(cast.SenderOptions{Destinations: []cast.Destination{fast(t, "osaka", "[2001:db8::2]:7650", cast.UDP)},
			Packets: func(cast.Destination) (cast.PacketConn, error) { return back, nil }})
		if err != nil {
			t.Fatal(err)
		}
		together(t, next.Run)
		back.back <- reports[1]
		synctest.Wait()
		if st := next.Stats(); len(st.Receivers) != 0 || st.Refused != 1 {
			t.Errorf("a report of another session: %+v", st)
		}
	})
}

// multicastInterface is an interface that has a route for IPv6 groups, which the loopback has not.
func multicastInterface(t *testing.T) string {
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if want := net.FlagUp | net.FlagMulticast; i.Flags&want == want {
			return i.Name
		}
	}
	return ""
}

// TestMulticast: a group's members on this machine get a still that was sent once.
func TestMulticast(t *testing.T) {
	for _, c := range []struct{ group, dev string }{
		{"[ff11::7650]", multicastInterface(t)}, // of the scope that leaves no machine (RFC 4291 §2.7)
		{"239.255.76.50", "lo"},
	} {
		if c.dev == "" {
			t.Logf("%s is not tried: no interface of this machine is up and has multicast", c.group)
			continue
		}
		got := make(chan uint64, 10)
		r, err := cast.NewReceiver(cast.ReceiverOptions{Keys: []cast.Key{key(t, keyText)}, Deliver: func(s *still.Still) { got <- s.Number }})
		if err != nil {
			t.Fatal(err)
		}
		free, err := net.ListenUDP("udp", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(free.LocalAddr().String())
		free.Close()
		address := c.group + ":" + port
		conn, err := cast.ListenUDP(address, c.dev)
		if err != nil {
			t.Fatal(err)
		}
		d := fast(t, "group", address, cast.UDP)
		d.Interface, d.Hops = c.dev, 1
		s, err := cast.NewSender(cast.SenderOptions{Destinations: []cast.Destination{d}})
		if err != nil {
			t.Fatal(err)
		}
		together(t, s.Run, func(ctx context.Context) error { return r.Serve(ctx, conn) })
		if err := s.Send(picture(mrand.New(mrand.NewPCG(1, 2)), "a", 5, time.Now(), 3000)); err != nil {
			t.Fatal(err)
		}
		if n := <-got; n != 5 {
			t.Errorf("%s: still %d is delivered", c.group, n)
		}
	}
}

func TestDestinations(t *testing.T) {
	good := fast(t, "a", "[2001:db8::2]:7650", cast.UDP)
	for _, change := range []func(*cast.Destination){
		func(d *cast.Destination) { d.Address = "2001:db8::2" },
		func(d *cast.Destination) { d.Address = "host:0" },
		func(d *cast.Destination) { d.Transport = "sctp" },
		func(d *cast.Destination) { d.Transport = cast.TLS },
		func(d *cast.Destination) { d.Rate = 0 },
		func(d *cast.Destination) { d.Hops = 256 },
		func(d *cast.Destination) { d.Key = cast.Key{} },
	} {
		d := good
		change(&d)
		if _, err := cast.NewSender(cast.SenderOptions{Destinations: []cast.Destination{d}}); err == nil {
			t.Errorf("%+v: no error", d)
		}
	}
	if _, err := cast.NewSender(cast.SenderOptions{}); err == nil {
		t.Error("no destinations: no error")
	}
}
