package wire_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"widecloud/api"
	"widecloud/internal/wire"
)

// lines counts what is logged, and keeps it.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.text.String(), "\n"), "\n")
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// siege has many connections to a port that say nothing, each dialled again after pause once it is closed. It ends with ctx.
func siege(ctx context.Context, n int, addr string, pause time.Duration, node func(i int) wire.Network) (end *sync.WaitGroup) {
	end = new(sync.WaitGroup)
	for i := range n {
		end.Go(func() {
			for ctx.Err() == nil {
				c, err := node(i).Dial(ctx, addr)
				if err == nil {
					stop := context.AfterFunc(ctx, func() { c.Close() })
					io.Copy(io.Discard, c) // until the other end closes it
					stop()
					c.Close()
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}
	return end
}

// TestStrangersHoldThePort has strangers open connections and say nothing. Peers and agents get in meanwhile.
func TestStrangersHoldThePort(t *testing.T) {
	for name, c := range map[string]struct {
		connections int
		pause       time.Duration
		node        func(i int) string
	}{
		"one source":               {160, 20 * time.Millisecond, func(int) string { return "evil" }},
		"one source, many at once": {2000, time.Second, func(int) string { return "evil" }},
		"addresses of one /64":     {400, time.Second, func(i int) string { return fmt.Sprintf("[2001:db8::%x]", i+1) }},
		"the peer's own source":    {160, time.Second, func(int) string { return "tokyo" }},
		"400 sources":              {400, time.Second, func(i int) string { return fmt.Sprintf("192.0.%d.%d", i/256, i%256) }},
		"400 networks":             {400, time.Second, func(i int) string { return fmt.Sprintf("[2001:db8:0:%x::1]", i) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, wire.Control, nil)
				defer p.close()
				h1 := p.osaka.agent(t, "h1")
				ctx, stop := context.WithCancel(t.Context())
				end := siege(ctx, c.connections, "osaka:7646", c.pause, func(i int) wire.Network { return p.net.Node(c.node(i)) })
				defer end.Wait()
				defer stop()
				time.Sleep(12*time.Second + 113*time.Millisecond)
				for who, dialer := range map[string]*site{"tokyo": p.tokyo, "h1": h1} {
					up := make(chan struct{}, 1)
					began := time.Now()
					dctx, done := context.WithTimeout(t.Context(), time.Minute)
					d := &wire.Dialer{
						Addrs: []string{"osaka:7646"}, Peer: wire.Controller("osaka"), Purpose: wire.Bulk, Options: dialer.options(p.net.Node(who)),
						MaxBackoff: 2 * time.Second,
						Up:         func(*wire.Session) { up <- struct{}{}; done() },
					}
					d.Run(dctx)
					done()
					if took := time.Since(began); len(up) == 0 || took > 5*time.Second {
						t.Errorf("%s: %d sessions after %v", who, len(up), took)
					}
				}
			})
		})
	}
}

// TestManyDialABusyServer has more agents dial at once than there is room for, and a server that takes a second for each of its
// steps. What it has begun it ends: no agent is put out while it waits for the server, so no handshake is done twice.
func TestManyDialABusyServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		osaka := newSite(t, "osaka")
		var steps atomic.Int64
		trust, err := wire.NewTrust(wire.TrustOptions{CA: osaka.ca.Certificate(), Now: func() time.Time {
			steps.Add(1)
			time.Sleep(time.Second) // of the bubble
			return time.Now()
		}})
		if err != nil {
			t.Fatal(err)
		}
		agents := make([]*site, 400)
		for i := range agents {
			agents[i] = osaka.agent(t, fmt.Sprintf("h%d", i))
		}
		network := wire.NewMemory()
		o := osaka.options(network.Node("osaka"))
		o.Trust = trust
		server, err := wire.Listen(t.Context(), "osaka:7646", o)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		join := func(i int) {
			once, done := context.WithCancel(ctx)
			defer done()
			d := &wire.Dialer{
				Addrs: []string{"osaka:7646"}, Peer: wire.Controller("osaka"), Purpose: wire.Control,
				Options: agents[i].options(network.Node(fmt.Sprintf("192.0.%d.%d", i/256, i%256))), MaxBackoff: 2 * time.Second,
				Up: func(*wire.Session) { done() },
			}
			d.Run(once)
			if once.Err() != nil && ctx.Err() != nil {
				t.Errorf("agent %d has not got in", i)
			}
		}
		join(0)
		each := steps.Load()
		if each == 0 {
			t.Fatal("the server does not ask for the time")
		}
		var all sync.WaitGroup
		for i := range agents {
			all.Go(func() { join(i) })
		}
		all.Wait()
		if got, want := steps.Load(), each*int64(1+len(agents)); got != want {
			t.Errorf("%d steps for %d sessions of %d steps", got, 1+len(agents), each)
		}
	})
}

// TestStrangersOverTCP is the same as TestStrangersHoldThePort, with a real port: a peer and an agent join and open sessions
// while a stranger holds connections and renews them.
func TestStrangersOverTCP(t *testing.T) {
	tokyo, osaka := newSite(t, "tokyo"), newSite(t, "osaka")
	befriend(t, tokyo, osaka)
	var log lines
	server, joinToken, peerToken := door(t, osaka, wire.TCP{}, func(o *wire.Options) { o.Log = log.logger() })
	defer server.Close()
	addr := server.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	defer siege(ctx, 160, addr, 50*time.Millisecond, func(int) wire.Network { return wire.TCP{Source: net.IPv4(127, 0, 0, 2)} }).Wait()
	defer stop()
	for range 200 { // until the stranger has all that it gets
		c, err := wire.TCP{Source: net.IPv4(127, 0, 0, 2)}.Dial(t.Context(), addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, _, err := wire.JoinPeer(t.Context(), wire.TCP{}, addr, peerToken, tokyo.ca.Certificate(), nil); err != nil {
		t.Error(err)
	}
	cred, _, err := wire.Join(t.Context(), wire.TCP{}, addr, joinToken, "h1", nil)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := wire.NewTrust(wire.TrustOptions{CA: cred.CA})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []wire.Options{tokyo.options(nil), {Credential: cred, Trust: trust}} {
		for range 20 {
			s, err := wire.Dial(t.Context(), addr, wire.Controller("osaka"), wire.Control, o)
			if err != nil {
				t.Fatalf("%s: %v", o.Credential.Identity, err)
			}
			s.Close()
		}
	}
	if n := len(log.all()); n > 70 {
		t.Errorf("%d lines are logged", n)
	}
}

// TestRefusalsLogged counts the lines that strangers can cause, and looks for the count of those that are left out.
func TestRefusalsLogged(t *testing.T) {
	for name, c := range map[string]struct {
		sources int
		most    int // lines in three minutes
	}{
		"one source":  {1, 3 * (5 + 1)},
		"400 sources": {400, 3 * (60 + 1)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log lines
				p := newPair(t, wire.Control, func(o *wire.Options) { o.Log = log.logger() })
				ctx, stop := context.WithCancel(t.Context())
				end := siege(ctx, 400, "osaka:7646", 2*time.Second, func(i int) wire.Network {
					return p.net.Node(fmt.Sprintf("192.0.%d.%d", i%c.sources/256, i%c.sources%256))
				})
				time.Sleep(3*time.Minute - time.Second)
				stop()
				end.Wait()
				p.close() // tells the rest
				all := log.all()
				var refused, left, size int
				for _, line := range all {
					size += len(line)
					if strings.Contains(line, "refuse connection") {
						refused++
					}
					if _, n, ok := strings.Cut(line, "left out\" lines="); ok {
						var lines int
						fmt.Sscan(n, &lines)
						left += lines
					}
				}
				if refused == 0 || len(all) > c.most || size > 300*c.most {
					t.Errorf("%d lines of %d octets, %d of refusals; want at most %d", len(all), size, refused, c.most)
				}
				if left < 5_000 {
					t.Errorf("%d lines were left out by the log's account", left)
				}
			})
		})
	}
	t.Run("a stranger's long words", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log lines
			p := newPair(t, wire.Control, func(o *wire.Options) { o.Log = log.logger() })
			raw, err := p.net.Node("evil").Dial(t.Context(), "osaka:7646")
			if err != nil {
				t.Fatal(err)
			}
			name := "widecloud://" + strings.Repeat("y", 50_000)
			conn := tls.Client(raw, &tls.Config{Certificates: []tls.Certificate{selfSigned(t, name)}, NextProtos: []string{"widecloud/1"}, InsecureSkipVerify: true})
			conn.HandshakeContext(t.Context())
			io.Copy(io.Discard, conn)
			conn.Close()
			synctest.Wait() // until the refusal is logged: a port that closes says of its connections that it closed
			p.close()
			all := log.all()
			if !slices.ContainsFunc(all, func(line string) bool {
				return strings.Contains(line, "refuse connection") && strings.Contains(line, "yyy")
			}) {
				t.Errorf("the refusal is not logged: %q", all)
			}
			for _, line := range all {
				if len(line) > 2000 {
					t.Errorf("a line of %d octets", len(line))
				}
			}
		})
	})
}

// selfSigned is a certificate for any name that nobody vouches for.
func selfSigned(t *testing.T, uri string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	name, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// drip sends octets one by one until it cannot.
func drip(w io.Writer, octets []byte, every time.Duration) {
	for i := range octets {
		if _, err := w.Write(octets[i : i+1]); err != nil {
			return
		}
		time.Sleep(every)
	}
}

// clientHello is the first record of a TLS client.
func clientHello(t *testing.T) []byte {
	here, there := net.Pipe()
	defer there.Close()
	go func() {
		tls.Client(here, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context())
		here.Close()
	}()
	record := make([]byte, 4096)
	n, err := there.Read(record)
	if err != nil {
		t.Fatal(err)
	}
	return record[:n]
}

// TestSlowStranger has ends that say nothing, half of something, or all of it octet by octet. The time for handshakes is for
// all of it.
func TestSlowStranger(t *testing.T) {
	join := "POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat(" ", 60000)
	for name, open := range map[string]func(t *testing.T, p *pair) (c net.Conn, octets []byte){
		"nothing": func(t *testing.T, p *pair) (net.Conn, []byte) { return dialRaw(t, p), nil },
		"half a record": func(t *testing.T, p *pair) (net.Conn, []byte) {
			return dialRaw(t, p), []byte("\x16\x03\x01")
		},
		"a slow handshake": func(t *testing.T, p *pair) (net.Conn, []byte) { return dialRaw(t, p), clientHello(t) },
		"no hello":         func(t *testing.T, p *pair) (net.Conn, []byte) { return hostile(t, p, nil), nil },
		"a slow hello":     func(t *testing.T, p *pair) (net.Conn, []byte) { return hostile(t, p, nil), say(politeHello) },
		"no join request":  func(t *testing.T, p *pair) (net.Conn, []byte) { return shake(t, p, nil, "widecloud-join/1"), nil },
		"a slow join request": func(t *testing.T, p *pair) (net.Conn, []byte) {
			return shake(t, p, nil, "widecloud-join/1"), []byte(join)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, wire.Control, nil)
				defer p.close()
				c, octets := open(t, p)
				began := time.Now()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					drip(c, octets, 400*time.Millisecond)
				}()
				io.Copy(io.Discard, c)
				if took := time.Since(began); took < 9*time.Second || took > 11*time.Second {
					t.Errorf("it is closed after %v", took)
				}
				c.Close()
				<-ended
			})
		})
	}
}

func dialRaw(t *testing.T, p *pair) net.Conn {
	c, err := p.net.Node("evil").Dial(t.Context(), "osaka:7646")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSessionsPerIdentity dials ever more sessions with a stolen credential: the newest two of each purpose live.
func TestSessionsPerIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Control, nil)
		defer p.close()
		h1 := p.osaka.agent(t, "h1")
		ids := map[uint64]bool{p.s.ID(): true, p.peer.ID(): true}
		var all []*wire.Session
		for i := range 100 {
			purpose := []wire.Purpose{wire.Control, wire.Bulk}[i%2]
			s, err := wire.Dial(t.Context(), "osaka:7646", wire.Controller("osaka"), purpose, h1.options(p.net.Node("h1")))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if ids[s.ID()] {
				t.Errorf("session %d is there twice", s.ID())
			}
			ids[s.ID()] = true
			all = append(all, s)
			synctest.Wait()
		}
		for i, s := range all {
			switch err := s.Err(); {
			case i < 96 && (!errors.Is(err, &api.Error{Code: api.CodeConflict}) || !strings.Contains(err.Error(), "newer")):
				t.Errorf("session %d of %d: %v", i, len(all), err)
			case i >= 96 && err != nil:
				t.Errorf("session %d of %d has ended: %v", i, len(all), err)
			}
		}
		if err := p.s.Err(); err != nil {
			t.Errorf("the peer's session has ended: %v", err)
		}
	})
}

// TestGreetingsPerIdentity has a stolen credential open connections and send no hello: few stay, and its owner gets in.
func TestGreetingsPerIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Control, nil)
		defer p.close()
		h1 := p.osaka.agent(t, "h1")
		var mu sync.Mutex
		open := 0
		var ends sync.WaitGroup
		for range 50 {
			c := shake(t, p, h1.cred, "widecloud/1")
			mu.Lock()
			open++
			mu.Unlock()
			ends.Go(func() {
				io.Copy(io.Discard, c)
				c.Close()
				mu.Lock()
				defer mu.Unlock()
				open--
			})
			time.Sleep(50 * time.Millisecond)
		}
		mu.Lock()
		if open > 8 {
			t.Errorf("%d connections of one identity wait for their hello", open)
		}
		mu.Unlock()
		time.Sleep(time.Second)
		s, err := wire.Dial(t.Context(), "osaka:7646", wire.Controller("osaka"), wire.Control, h1.options(p.net.Node("h1")))
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		ends.Wait()
	})
}
