package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// payload of the small packets, in bytes.
const payload = 64

// measured runs a load and returns what it cost, in CPU seconds, in all and of
// the translator's process.
func (r *run) measured(w *world, load func() error) (all, daemon float64, err error) {
	var was float64
	if w.daemon != nil {
		if was, err = processTime(w.daemon.cmd.Process.Pid); err != nil {
			return 0, 0, err
		}
	}
	before, err := w.meter.read()
	if err != nil {
		return 0, 0, err
	}
	if err := load(); err != nil {
		return 0, 0, err
	}
	after, err := w.meter.read()
	if err != nil {
		return 0, 0, err
	}
	if w.daemon != nil {
		is, err := processTime(w.daemon.cmd.Process.Pid)
		if err != nil {
			return 0, 0, err
		}
		if daemon = is - was; daemon == 0 && w.spec.Path == "tun" {
			return 0, 0, fmt.Errorf("no packet took the way by %s", tunName)
		}
	}
	u := after.since(before)
	r.ksoftirqd += u.Ksoftirqd
	r.group += u.Group
	r.machine += u.Machine
	return u.cost(), daemon, nil
}

// bookCost books a load's cost by its unit, and the daemon's part of it.
func (r *run) bookCost(j job, round int, all, daemon, per float64) {
	r.book.add(key{j.Path, j.Load}, round, all/per)
	if r.worlds[j.World].daemon != nil {
		r.book.add(key{j.Path, j.Load + "_daemon"}, round, daemon/per)
		r.book.add(key{j.Path, j.Load + "_path"}, round, (all-daemon)/per)
	}
}

// sample does one job and books what it finds.
func (r *run) sample(ctx context.Context, j job, round int) error {
	w := r.worlds[j.World]
	switch j.Load {
	case "unscraped", "scraped":
		return r.scraped(ctx, w, j, round)
	case "web":
		return r.web(ctx, w, j, round)
	case "zero_loss":
		return r.zeroLoss(w, j, round)
	}
	return fmt.Errorf("no load %q", j.Load)
}

// total is what a job's turns of a round have done and cost, in CPU seconds.
type total struct {
	answer
	cpu, daemon float64
}

// turns has a group of jobs take turns, and returns what each has done and cost in all
// but the first, uncounted ones. What traffic costs changes from second to second (how
// far a receiver lags, what others do to the caches), so paths are compared within less;
// but the shorter a turn, the more of it is its start and its end.
func (r *run) turns(ctx context.Context, group []job, round, uncounted, counted int, one func(job, *world) (answer, error)) ([]total, error) {
	sums := make([]total, len(group))
	n := uncounted + counted
	for t := range n {
		for _, i := range sequence(len(group), round*n+t) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			j, w := group[i], r.worlds[group[i].World]
			var now total
			if err := r.again(j, func() (err error) {
				now.cpu, now.daemon, err = r.measured(w, func() (err error) {
					now.answer, err = one(j, w)
					return err
				})
				return err
			}); err != nil {
				return nil, err
			}
			if s := &sums[i]; t >= uncounted {
				s.cpu += now.cpu
				s.daemon += now.daemon
				s.Bytes += now.Bytes
				s.Packets += now.Packets
				s.Seconds += now.Seconds
				s.P10 += now.P10
				s.P50 += now.P50
			}
			// Others want to live, too.
			time.Sleep(5 * time.Millisecond)
		}
	}
	return sums, nil
}

// streams has TCP streams take turns, on connections that last for the round.
func (r *run) streams(ctx context.Context, group []job, round int) error {
	for _, j := range group {
		w := r.worlds[j.World]
		defer w.hangUp()
		if err := w.connect(j.Load); err != nil {
			return fmt.Errorf("%s.%s: %w", j.Path, j.Load, err)
		}
	}
	n := max(1, int(r.plan.Stream/r.plan.Turn+.5))
	// In the first turn the windows grow.
	sums, err := r.turns(ctx, group, round, 1, n, func(j job, w *world) (answer, error) {
		return w.slice(j.Load == "tcp1r", r.plan.Stream/float64(n))
	})
	if err != nil {
		return err
	}
	for i, j := range group {
		s := sums[i]
		r.bookCost(j, round, s.cpu, s.daemon, float64(s.Bytes)/1024/1e9)
		r.book.add(key{j.Path, j.Load + "_gbit"}, round, float64(s.Bytes)*8/1e9/s.Seconds)
	}
	return nil
}

// packetTurns is in how many turns a round's small packets come. In all they take four
// samples' time: most of what they cost is wake-ups, and that changes from turn to turn.
const packetTurns = 10

// packetTime is how long they take on each path in a round, in seconds.
func (p plan) packetTime() float64 { return 4 * p.Seconds }

// packets has small packets take turns.
func (r *run) packets(ctx context.Context, group []job, round int) error {
	seconds := r.plan.packetTime() / packetTurns
	sums, err := r.turns(ctx, group, round, 0, packetTurns, func(j job, w *world) (answer, error) {
		switch j.Load {
		case "udp64":
			return r.udp(w, r.plan.Burst, seconds)
		case "udp64_single":
			return r.udp(w, 1, seconds)
		case "udp64_burst":
			return r.udp(w, 32, seconds)
		}
		return r.spreadUDP(w, j, seconds)
	})
	if err != nil {
		return err
	}
	for i, j := range group {
		r.bookCost(j, round, sums[i].cpu, sums[i].daemon, float64(sums[i].Packets)/1e6)
	}
	return nil
}

// pingTurns is in how many turns a round's round trips come.
const pingTurns = 10

// roundTrips has round trips take turns. What is booked is the mean of the turns'
// percentiles.
func (r *run) roundTrips(ctx context.Context, group []job, round int) error {
	sums, err := r.turns(ctx, group, round, 0, pingTurns, func(_ job, w *world) (answer, error) {
		return w.client.do(order{Op: "pingpong", To: netip.AddrPortFrom(w.spec.target(), portEcho), Packets: r.plan.Pings / pingTurns, Size: payload})
	})
	if err != nil {
		return err
	}
	for i, j := range group {
		r.book.add(key{j.Path, "rtt_p10"}, round, sums[i].P10/pingTurns)
		r.book.add(key{j.Path, "rtt_p50"}, round, sums[i].P50/pingTurns)
	}
	return nil
}

// scraped has packets that are spread over the table, and has the metrics fetched
// meanwhile, or not.
func (r *run) scraped(ctx context.Context, w *world, j job, round int) error {
	seconds := r.plan.Seconds
	stop := func() (int, error) { return 0, nil }
	if w.daemon != nil {
		seconds *= 10
		if j.Load == "scraped" {
			var first float64
			var err error
			if stop, first, err = w.scrape(ctx); err != nil {
				return err
			}
			r.book.add(key{j.Path, "look"}, round, first*1000)
		}
	}
	var a answer
	cpu, daemon, err := r.measured(w, func() (err error) {
		a, err = r.spreadUDP(w, j, seconds)
		return err
	})
	scrapes, scrapeErr := stop()
	if err != nil {
		return err
	}
	if scrapeErr != nil {
		return fmt.Errorf("scrape: %w", scrapeErr)
	}
	if w.daemon != nil && j.Load == "scraped" {
		r.book.add(key{j.Path, "scrapes"}, round, float64(scrapes))
	}
	r.bookCost(j, round, cpu, daemon, float64(a.Packets)/1e6)
	return nil
}

// udp sends small packets from client to server.
func (r *run) udp(w *world, burst int, seconds float64) (answer, error) {
	n, err := exchange(w.client, w.server, order{
		Op: "udp", To: netip.AddrPortFrom(w.spec.target(), portUDP), Size: payload, Rate: r.plan.Rate, Burst: burst, Seconds: seconds,
	})
	return answer{Packets: n}, err
}

// spreadUDP sends half of the packets to addresses spread over the whole table,
// and the other half back from them.
func (r *run) spreadUDP(w *world, j job, seconds float64) (answer, error) {
	n, first := w.spec.Table, manyV4
	if j.Path == base {
		n, first = r.plan.Mappings, manyV6
		if j.Load == "one_address" {
			n = 1
		}
	}
	o := order{Op: "udp", Size: payload, Rate: r.plan.Rate, Burst: r.plan.Burst, Seconds: seconds / 2, Spread: n}
	there, back := o, o
	there.First, there.To = first, netip.AddrPortFrom(first, portUDP)
	back.First, back.Sources, back.To = manyV6, true, netip.AddrPortFrom(w.spec.back(), portUDP)
	to, err := exchange(w.client, w.server, there)
	if err != nil {
		return answer{}, fmt.Errorf("to the mapped: %w", err)
	}
	from, err := exchange(w.server, w.client, back)
	if err != nil {
		return answer{}, fmt.Errorf("from the mapped: %w", err)
	}
	return answer{Packets: to + from}, nil
}

// errLoss is about a sample that is none, since packets went missing: somebody
// on the way did not get to run in time.
var errLoss = errors.New("packets were lost")

// exchange sends and counts; it fails if more than one in a hundred went missing.
func exchange(from, to *peer, o order) (uint64, error) {
	sent, got, err := trial(from, to, o)
	if err == nil && (got < sent-sent/100 || got > sent || sent == 0) {
		err = fmt.Errorf("%w: %d sent, %d arrived", errLoss, sent, got)
	}
	return got, err
}

// trial sends, and returns how many went and came.
func trial(from, to *peer, o order) (sent, got uint64, err error) {
	if _, err := to.do(order{Op: "count"}); err != nil {
		return 0, 0, err
	}
	a, err := from.do(o)
	if err != nil {
		return 0, 0, err
	}
	// What is still on its way arrives in far less.
	for range 5 {
		time.Sleep(5 * time.Millisecond)
		c, err := to.do(order{Op: "count"})
		if err != nil {
			return 0, 0, err
		}
		if got += c.Packets; got >= a.Packets {
			break
		}
	}
	return a.Packets, got, nil
}

// zeroLoss looks for the highest rate without loss.
func (r *run) zeroLoss(w *world, j job, round int) error {
	if round >= 3 {
		return nil // a bisection is long, and three say as much
	}
	limited := false
	rate, err := zeroLoss(1000, 500_000, .04, func(rate float64) (bool, error) {
		o := order{Op: "udp", To: netip.AddrPortFrom(w.spec.target(), portUDP), Size: payload, Rate: int(rate), Burst: 16, CatchUp: true, Seconds: min(r.plan.Seconds, .5)}
		sent, got, err := trial(w.client, w.server, o)
		// A rate that the sender itself does not reach is none.
		reached := float64(sent) >= .98*rate*o.Seconds
		limited = limited || (got == sent && !reached)
		return got == sent && reached, err
	})
	if err != nil {
		return err
	}
	if limited {
		r.generator = true
	}
	r.book.add(key{j.Path, "zero_loss"}, round, rate)
	return nil
}

// web runs wrk: many connections of one request each, then few long ones.
func (r *run) web(ctx context.Context, w *world, j job, round int) error {
	if round >= 10 {
		return nil // wrk's samples are long, at least a second each
	}
	_, _, err := r.measured(w, func() error {
		for _, kind := range []struct {
			name        string
			connections int
			header      string
		}{{"web_short", 16, "Connection: close"}, {"web_long", 4, "Accept: text/html"}} {
			out, err := w.wrk(ctx, kind.connections, kind.header, r.plan.Seconds)
			if err != nil {
				return err
			}
			r.book.add(key{j.Path, kind.name + "_rps"}, round, out.rps)
			r.book.add(key{j.Path, kind.name + "_p50"}, round, out.p50)
			r.book.add(key{j.Path, kind.name + "_p99"}, round, out.p99)
			r.book.add(key{j.Path, kind.name}, round, out.cpu*1e6/out.requests)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Half of the weight to each kind, whatever number of requests it made.
	short, long := r.book.samples[key{j.Path, "web_short"}][round], r.book.samples[key{j.Path, "web_long"}][round]
	r.book.add(key{j.Path, "web"}, round, (short+long)/2)
	return nil
}

type wrkResult struct {
	requests, rps, p50, p99 float64 // latencies in microseconds
	cpu                     float64 // seconds
}

func (w *world) wrk(ctx context.Context, connections int, header string, seconds float64) (wrkResult, error) {
	host := w.spec.target().String()
	if w.spec.target().Is6() {
		host = "[" + host + "]"
	}
	// wrk knows whole seconds only.
	duration := max(1, int(seconds+.5))
	_, client := cpus()
	args := []string{"-t", "1", "-c", strconv.Itoa(connections), "-d", strconv.Itoa(duration) + "s", "--latency", "-H", header, fmt.Sprintf("http://%s:%d/", host, portWeb)}
	name := "wrk"
	if client >= 0 {
		name, args = "taskset", append([]string{"-c", strconv.Itoa(client), "wrk"}, args...)
	}
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	before, err := w.meter.read()
	if err != nil {
		return wrkResult{}, err
	}
	p, err := w.start("c", cmd)
	if err != nil {
		return wrkResult{}, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.cmd.Process.Kill()
		<-p.done
		return wrkResult{}, ctx.Err()
	case <-time.After(time.Duration(duration)*time.Second + 10*time.Second):
		p.cmd.Process.Kill()
		<-p.done
		return wrkResult{}, fmt.Errorf("wrk did not end")
	}
	if p.err != nil {
		return wrkResult{}, fmt.Errorf("wrk: %w\n%s", p.err, out.String())
	}
	after, err := w.meter.read()
	if err != nil {
		return wrkResult{}, err
	}
	res, err := parseWrk(out.String())
	res.cpu = after.since(before).cost()
	return res, err
}

var (
	wrkTotal   = regexp.MustCompile(`(\d+) requests in ([0-9.]+)(us|ms|s|m)`)
	wrkPercent = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([0-9.]+)(us|ms|s|m)\s*$`)
	wrkErrors  = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkBad     = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	wrkUnit    = map[string]float64{"us": 1, "ms": 1e3, "s": 1e6, "m": 60e6}
)

// parseWrk reads what wrk prints; errors of connections and answers are errors.
func parseWrk(text string) (wrkResult, error) {
	var r wrkResult
	m := wrkTotal.FindStringSubmatch(text)
	if m == nil {
		return r, fmt.Errorf("wrk: no count of requests in:\n%s", text)
	}
	number := func(s string) float64 { n, _ := strconv.ParseFloat(s, 64); return n }
	r.requests = number(m[1])
	r.rps = r.requests / (number(m[2]) * wrkUnit[m[3]] / 1e6)
	for _, p := range wrkPercent.FindAllStringSubmatch(text, -1) {
		v := number(p[2]) * wrkUnit[p[3]]
		if p[1] == "50" {
			r.p50 = v
		} else {
			r.p99 = v
		}
	}
	if r.requests == 0 || r.p50 == 0 || r.p99 == 0 {
		return r, fmt.Errorf("wrk: no answers:\n%s", text)
	}
	if e := wrkErrors.FindStringSubmatch(text); e != nil {
		// wrk counts the server's close of a connection that it asked to be closed as
		// a read error in some cases; others are not to be.
		if e[1] != "0" || e[3] != "0" || e[4] != "0" {
			return r, fmt.Errorf("wrk: %s", strings.TrimSpace(e[0]))
		}
	}
	if b := wrkBad.FindString(text); b != "" {
		return r, fmt.Errorf("wrk: %s", b)
	}
	return r, nil
}

// scrape fetches the translator's metrics ten times a second until stopped, and
// says what the first time has cost the daemon (seconds of CPU): with that it looks
// through all mappings for the busiest, which it does every 15 seconds at most.
func (w *world) scrape(ctx context.Context) (stop func() (int, error), first float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		doErr := w.ns["t"].Do(func() error {
			c, err = net.DialTimeout(network, addr, time.Second)
			return err
		})
		return c, doErr
	}}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	fetch := func() error {
		resp, err := client.Get("http://" + metricsAddr + "/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && (resp.StatusCode != http.StatusOK || n == 0) {
			err = fmt.Errorf("%s, %d bytes", resp.Status, n)
		}
		return err
	}
	was, err := processTime(w.daemon.cmd.Process.Pid)
	if err == nil {
		err = fetch()
	}
	is, timeErr := processTime(w.daemon.cmd.Process.Pid)
	if err = errors.Join(err, timeErr); err != nil {
		cancel()
		return nil, 0, fmt.Errorf("scrape: %w", err)
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		var r result
		for {
			select {
			case <-ctx.Done():
				done <- r
				return
			case <-t.C:
				if err := fetch(); err != nil {
					r.err = err
				} else {
					r.n++
				}
			}
		}
	}()
	return func() (int, error) {
		cancel()
		r := <-done
		transport.CloseIdleConnections()
		return r.n, r.err
	}, is - was, nil
}
