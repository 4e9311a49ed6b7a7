package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// measures are the statements that compare a link with what was asked for, by what the
// two sites' users see.
var measures = []script.Entry{
	{
		Form: "expect link SITE SITE rtt [full] between TIME and TIME", Part: script.Checks,
		Doc: "the median of 20 datagrams that the second site's user sends back; `full`: while the first site sends several times what the link carries",
		Parse: func(p *script.Parser) any {
			m := &RTT{measured: parseMeasured(p, "rtt")}
			m.Full = p.Is("full")
			m.Low, m.High = bounds(p, func() time.Duration { return p.Duration(time.Minute) })
			return m
		},
	},
	{
		Form: "expect link SITE SITE rate between RATE and RATE", Part: script.Checks,
		Doc: "what arrives for three seconds at the second site, in frames' bits a second, when the first one sends three times the higher RATE. More arrives " +
			"if the traffic leaves the link",
		Parse: func(p *script.Parser) any {
			m := &Rate{measured: parseMeasured(p, "rate")}
			m.Low, m.High = bounds(p, func() int64 { return p.Quantity("rate in bit/s", 1e9) })
			return m
		},
	},
	{
		Form: "expect link SITE SITE tcp [by reno|cubic|bbr] between RATE and RATE", Part: script.Checks,
		Doc: "what one TCP connection brings there in four seconds, after one to begin; `by`: the sender's congestion control is this one",
		Parse: func(p *script.Parser) any {
			m := &TCP{measured: parseMeasured(p, "tcp")}
			if p.Is("by") {
				m.By = p.OneOf("reno", "cubic", "bbr")
			}
			m.Low, m.High = bounds(p, func() int64 { return p.Quantity("rate in bit/s", 1e9) })
			return m
		},
	},
	{
		Form: "expect link SITE SITE loss between N% and N%", Part: script.Checks, Doc: "of a thousand small datagrams, 500 a second",
		Parse: func(p *script.Parser) any {
			m := &Loss{measured: parseMeasured(p, "loss")}
			m.Low, m.High = bounds(p, func() float64 { return loss(p) })
			return m
		},
	},
	{
		Form: "expect way SITE to SITE by link|internet|SITE [within TIME]", Part: script.Checks,
		Doc: "where the first site's router sends what is for the second one's user, in IPv4 and IPv6: over the link between them, by the Internet, or " +
			"over the link to a third site",
		Parse: parseWay,
	},
}

// measured is a link and a direction.
type measured struct {
	From, To *Site
	link     *WAN
}

func parseMeasured(p *script.Parser, what string) measured {
	m := measured{From: ref(p)}
	at := p.Peek()
	m.To = other(p, m.From)
	if m.link = federation(p).find(m.From, m.To); m.link == nil {
		p.Fail(at, "there is no link between %s and %s", m.From.name, m.To.name)
	}
	p.OneOf(what)
	return m
}

// bounds takes `between LOW and HIGH`.
func bounds[T int64 | float64 | time.Duration](p *script.Parser, value func() T) (low, high T) {
	p.OneOf("between")
	low = value()
	p.OneOf("and")
	at := p.Peek()
	if high = value(); high < low {
		p.Fail(at, "the higher bound is below the lower one")
	}
	return low, high
}

// judge is a figure's line, and an error if it is out of bounds.
func judge[T int64 | float64 | time.Duration](got, low, high T, line string) (string, error) {
	if got < low || got > high {
		return "", errors.New(line)
	}
	return line, nil
}

// carried is what the link itself says of its direction.
func (m measured) carried() machine.Direction {
	ab, ba := m.link.Counters()
	if m.From == m.link.B {
		return ba
	}
	return ab
}

// Ports of the measurements; one runs at a time.
const echoPort, floodPort, tcpPort = 7, 9, 5001

// datagram is what a measurement sends: with its headers it fits whatever link there is.
const datagram = 1200

// onWire is a UDP datagram's length as an Ethernet frame, in bytes: IPv6, UDP.
func onWire(payload int) int64 { return int64(payload) + 14 + 40 + 8 }

// listen opens a socket of the second site's user. It ends with the context.
func (m measured) listen(ctx context.Context, port int) (c net.PacketConn, err error) {
	err = m.To.user.Do(func() error {
		c, err = net.ListenPacket("udp6", m.address(port))
		return err
	})
	if err == nil {
		context.AfterFunc(ctx, func() { c.Close() })
	}
	return c, err
}

// dial opens a socket of the first site's user to the second one's.
func (m measured) dial(ctx context.Context, network string, port int) (c net.Conn, err error) {
	err = m.From.user.Do(func() error {
		c, err = net.DialTimeout(network, m.address(port), 5*time.Second)
		return err
	})
	if err == nil {
		context.AfterFunc(ctx, func() { c.Close() })
	}
	return c, err
}

func (m measured) address(port int) string {
	return netip.AddrPortFrom(m.To.addr6(userNumber), uint16(port)).String()
}

// count counts the frames' bytes, and the datagrams, that arrive.
func (m measured) count(ctx context.Context, port int) (bytes, datagrams *atomic.Int64, err error) {
	c, err := m.listen(ctx, port)
	bytes, datagrams = &atomic.Int64{}, &atomic.Int64{}
	if err == nil {
		go func() {
			b := make([]byte, 2000)
			for {
				n, _, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				bytes.Add(onWire(n))
				datagrams.Add(1)
			}
		}()
	}
	return bytes, datagrams, err
}

// flood sends datagrams at a rate in bit/s of frames, until the context ends.
func (m measured) flood(ctx context.Context, rate int64) error {
	c, err := m.dial(ctx, "udp6", floodPort)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, datagram)
		begun, sent := time.Now(), int64(0)
		for ctx.Err() == nil {
			for ; sent < int64(time.Since(begun).Seconds()*float64(rate)/8); sent += onWire(len(b)) {
				c.Write(b) // nobody may listen: some writes say so
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return nil
}

// wait is nil after a time, or says that the script has ended.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// RTT expects the time there and back.
type RTT struct {
	measured
	Full      bool
	Low, High time.Duration
}

// Judge implements stage.Judge.
func (r *RTT) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.Full {
		shape := r.link.shape(r.From)
		if shape.Rate == 0 {
			return "", errors.New("the link has no rate, so it is never full")
		}
		if err := r.flood(ctx, 4*shape.Rate); err != nil {
			return "", err
		}
		if err := wait(ctx, time.Second); err != nil { // to fill the queue
			return "", err
		}
	}
	all, err := r.echoes(ctx)
	if err != nil {
		return "", err
	}
	slices.Sort(all)
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	median := all[len(all)/2]
	return judge(median, r.Low, r.High, fmt.Sprintf("median %v of %d, from %v to %v", round(median), len(all), round(all[0]), round(all[len(all)-1])))
}

// Echoes are asked one after the other; of a full link some are lost.
const echoes, fewestEchoes = 20, 5

func (r *RTT) echoes(ctx context.Context) ([]time.Duration, error) {
	s, err := r.listen(ctx, echoPort)
	if err != nil {
		return nil, err
	}
	go func() {
		b := make([]byte, 10)
		for {
			n, from, err := s.ReadFrom(b)
			if err != nil {
				return
			}
			s.WriteTo(b[:n], from)
		}
	}()
	c, err := r.dial(ctx, "udp6", echoPort)
	if err != nil {
		return nil, err
	}
	var all []time.Duration
	for i := range byte(echoes) {
		took, err := echo(c, i)
		if err == nil {
			all = append(all, took)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if len(all) < fewestEchoes {
		return nil, fmt.Errorf("%d of %d are answered", len(all), echoes)
	}
	return all, nil
}

// echo sends a datagram and waits for the same one; what comes late is the answer to
// an earlier one.
func echo(c net.Conn, number byte) (time.Duration, error) {
	begun := time.Now()
	if err := c.SetDeadline(begun.Add(2 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := c.Write([]byte{number}); err != nil {
		return 0, err
	}
	for b := []byte{0}; ; {
		if _, err := c.Read(b); err != nil {
			return 0, err
		}
		if b[0] == number {
			return time.Since(begun), nil
		}
	}
}

// Rate expects what a link carries.
type Rate struct {
	measured
	Low, High int64 // bit/s
}

// rateTime is how long arrivals are counted, after a while in which the queue fills.
const rateTime = 3 * time.Second

// Judge implements stage.Judge.
func (r *Rate) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arrived, _, err := r.count(ctx, floodPort)
	if err == nil {
		err = r.flood(ctx, 3*r.High)
	}
	if err == nil {
		err = wait(ctx, time.Second)
	}
	if err != nil {
		return "", err
	}
	before, begun, carried := arrived.Load(), time.Now(), r.carried()
	if err := wait(ctx, rateTime); err != nil {
		return "", err
	}
	got := int64(float64(arrived.Load()-before) * 8 / time.Since(begun).Seconds())
	now := r.carried()
	return judge(got, r.Low, r.High, fmt.Sprintf("%s arrive; the link carried %s of them and dropped %d frames",
		rateText(got), stage.Mega(now.Bytes-carried.Bytes), now.Dropped-carried.Dropped))
}

func rateText(bits int64) string { return fmt.Sprintf("%.2f Mbit/s", float64(bits)/1e6) }

// TCP expects what one connection carries.
type TCP struct {
	measured
	By        string // congestion control; "": whatever
	Low, High int64  // bit/s of payload
}

// tcpTime is how long a connection's bytes are counted, after a second.
const tcpTime = 4 * time.Second

// Judge implements stage.Judge.
func (t *TCP) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var l net.Listener
	err := t.To.user.Do(func() (err error) { l, err = net.Listen("tcp6", t.address(tcpPort)); return err })
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	var arrived counter
	go func() {
		if c, err := l.Accept(); err == nil {
			context.AfterFunc(ctx, func() { c.Close() })
			io.Copy(&arrived, c)
		}
	}()
	c, err := t.dial(ctx, "tcp6", tcpPort)
	if err != nil {
		return "", err
	}
	go func() {
		for b := make([]byte, 64<<10); err == nil; {
			_, err = c.Write(b)
		}
	}()
	out, err := t.From.user.Command(ctx, "cat", "/proc/sys/net/ipv4/tcp_congestion_control").Output()
	by := strings.TrimSpace(string(out))
	if err == nil && t.By != "" && by != t.By {
		err = fmt.Errorf("it is sent by %s", by)
	}
	if err == nil {
		err = wait(ctx, time.Second)
	}
	if err != nil {
		return "", err
	}
	before, begun := arrived.Load(), time.Now()
	if err := wait(ctx, tcpTime); err != nil {
		return "", err
	}
	got := int64(float64(arrived.Load()-before) * 8 / time.Since(begun).Seconds())
	return judge(got, t.Low, t.High, fmt.Sprintf("%s by %s", rateText(got), by))
}

type counter struct{ atomic.Int64 }

func (c *counter) Write(b []byte) (int, error) { c.Add(int64(len(b))); return len(b), nil }

// Loss expects how much of what is sent does not arrive.
type Loss struct {
	measured
	Low, High float64
}

const (
	lossDatagrams = 1000
	lossPause     = 2 * time.Millisecond
)

// Judge implements stage.Judge.
func (l *Loss) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, arrived, err := l.count(ctx, floodPort)
	if err != nil {
		return "", err
	}
	c, err := l.dial(ctx, "udp6", floodPort)
	if err != nil {
		return "", err
	}
	for range lossDatagrams {
		c.Write([]byte{0})
		if err := wait(ctx, lossPause); err != nil {
			return "", err
		}
	}
	// All that can still arrive has done so when for a second nothing has.
	for before := int64(-1); before != arrived.Load(); {
		before = arrived.Load()
		if err := wait(ctx, time.Second); err != nil {
			return "", err
		}
	}
	got := 1 - float64(arrived.Load())/lossDatagrams
	return judge(got, l.Low, l.High, fmt.Sprintf("%.1f%% of %d lost", 100*got, lossDatagrams))
}

// Way expects where a site's traffic to another one leaves it.
type Way struct {
	From, To *Site
	Device   string // of the first site's router
	Within   time.Duration
}

func parseWay(p *script.Parser) any {
	w := &Way{From: ref(p)}
	p.OneOf("to")
	w.To = other(p, w.From)
	p.OneOf("by")
	w.Device = "inet"
	if !p.Is("internet") {
		at, by := p.Peek(), w.To
		if !p.Is("link") {
			by = ref(p)
		}
		if federation(p).find(w.From, by) == nil {
			p.Fail(at, "there is no link between %s and %s", w.From.name, by.name)
		}
		w.Device = linkDevice(by)
	}
	w.Within = p.Within(20 * time.Second)
	return w
}

// Judge implements stage.Judge.
func (w *Way) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	begun := time.Now()
	err := stage.Until(ctx, w.Within, func(ctx context.Context) error {
		for _, p := range leaf(w.To.number, userNumber).b {
			out, err := w.From.router.Command(ctx, "ip", "route", "get", p.Addr().String()).Output()
			if err != nil {
				return err
			}
			if !strings.Contains(string(out), " dev "+w.Device+" ") {
				return fmt.Errorf("%s: %s", w.From.router.Name(), firstLine(string(out)))
			}
		}
		return nil
	})
	return fmt.Sprintf("by %s of %s, after %.1f s", w.Device, w.From.router.Name(), time.Since(begun).Seconds()), err
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(line)
}
