package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// kinds are the requests that are measured.
var kinds = []struct {
	name          string
	secure, match bool
}{{"200", false, false}, {"304", false, true}, {"tls200", true, false}, {"tls304", true, true}}

// requests measures requests a second and CPU time a request, of nginx, sentryc, and sentryc without its fast loop.
func requests(ctx context.Context, p plan) error {
	dir, err := tmpfs()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var servers []*server
	n, err := nginx(dir, p.Bytes)
	if err != nil {
		return err
	}
	defer n.stop()
	servers = append(servers, n)
	for _, role := range []string{"server", "nethttp"} {
		s, err := start(dir, role, p.Bytes)
		if err != nil {
			return err
		}
		defer s.stop()
		servers = append(servers, s)
	}
	rate, cost := map[string][]float64{}, map[string][]float64{}
	for range p.Rounds {
		for _, k := range kinds {
			for _, s := range servers {
				r, c, err := sample(ctx, p, s, k.secure, k.match)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, k.name, err)
				}
				rate[k.name+s.name], cost[k.name+s.name] = append(rate[k.name+s.name], r), append(cost[k.name+s.name], c)
			}
		}
	}
	for _, k := range kinds {
		for _, s := range servers {
			name := map[string]string{"nginx": "nginx", "server": "sentryc", "nethttp": "nethttp"}[s.name]
			figure(k.name+"."+name+".rate", median(rate[k.name+s.name]), "requests/s")
			figure(k.name+"."+name+".cpu", median(cost[k.name+s.name]), "us/request")
		}
		for _, s := range []string{"server", "nethttp"} {
			name := map[string]string{"server": "sentryc", "nethttp": "nethttp"}[s]
			ratio(k.name+"."+name+".rate", median(rate[k.name+s])/median(rate[k.name+"nginx"]))
			ratio(k.name+"."+name+".cpu", median(cost[k.name+s])/median(cost[k.name+"nginx"]))
		}
	}
	return nil
}

// sample lets wrk ask one server for a while.
func sample(ctx context.Context, p plan, s *server, secure, match bool) (rate, cost float64, err error) {
	url := "http://" + s.plain + s.path
	if secure {
		url = "https://" + s.secure + s.path
	}
	args := []string{"-c", "1", "wrk", "-t", "1", "-c", strconv.Itoa(p.Clients), "-d", strconv.Itoa(int(p.Sample / time.Second))}
	want := http.StatusOK
	if match {
		etag, err := check(url, "", http.StatusOK, p.Bytes)
		if err != nil {
			return 0, 0, err
		}
		args, want = append(args, "-H", "If-None-Match: "+etag), http.StatusNotModified
		if _, err := check(url, etag, want, 0); err != nil {
			return 0, 0, err
		}
	} else if _, err := check(url, "", want, p.Bytes); err != nil {
		return 0, 0, err
	}
	before, err := cpu(s.cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	out, err := exec.CommandContext(ctx, "taskset", append(args, url)...).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	after, err := cpu(s.cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	n, rate, err := parseWrk(string(out))
	return rate, float64((after - before).Microseconds()) / n, err
}

// check asks once and says what is wrong with the answer.
func check(url, match string, status, length int) (etag string, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if match != "" {
		req.Header.Set("If-None-Match", match)
	}
	// The certificate is the benchmark's own, a moment old.
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || res.StatusCode != status || int(n) != length {
		return "", fmt.Errorf("%s: %s, %d bytes, want %d with %d: %v", url, res.Status, n, status, length, err)
	}
	return res.Header.Get("ETag"), nil
}

var (
	wrkCount  = regexp.MustCompile(`(\d+) requests in`)
	wrkRate   = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkErrors = regexp.MustCompile(`(Socket errors|Non-2xx).*`)
)

// parseWrk reads what wrk prints; an error that it has counted is one.
func parseWrk(out string) (n, rate float64, err error) {
	count, per := wrkCount.FindStringSubmatch(out), wrkRate.FindStringSubmatch(out)
	if count == nil || per == nil {
		return 0, 0, fmt.Errorf("wrk says: %s", out)
	}
	if bad := wrkErrors.FindString(out); bad != "" {
		return 0, 0, fmt.Errorf("wrk says: %s", bad)
	}
	if n, err = strconv.ParseFloat(count[1], 64); err != nil {
		return 0, 0, err
	}
	rate, err = strconv.ParseFloat(per[1], 64)
	return n, rate, err
}

// viewer is a connection of a viewer. It is cheap: the client shares the machine with what it measures.
type viewer struct{ c net.Conn }

// blocks are buffers for answers.
var blocks = sync.Pool{New: func() any { return new([64 << 10]byte) }}

func view(address string) (*viewer, error) {
	c, err := net.Dial("tcp", address)
	return &viewer{c}, err
}

// ask asks for a still and reads it.
func (v *viewer) ask(path string) error {
	if err := v.send(path); err != nil {
		return err
	}
	return v.read()
}

func (v *viewer) send(path string) error {
	_, err := io.WriteString(v.c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	return err
}

// read reads an answer, which must be a still.
func (v *viewer) read() error {
	// Nothing is held while there is nothing to read.
	var first [12]byte
	if _, err := io.ReadFull(v.c, first[:]); err != nil {
		return err
	}
	if string(first[:]) != "HTTP/1.1 200" {
		return fmt.Errorf("the answer begins with %q", first)
	}
	b := blocks.Get().(*[64 << 10]byte)
	defer blocks.Put(b)
	n, end := 0, -1
	for end < 0 {
		m, err := v.c.Read(b[n:])
		if err != nil {
			return err
		}
		n += m
		end = bytes.Index(b[:n], []byte("\r\n\r\n"))
	}
	length, err := contentLength(b[:end+2])
	if err != nil {
		return err
	}
	for left := length - (n - end - 4); left > 0; {
		m, err := v.c.Read(b[:min(left, len(b))])
		if err != nil {
			return err
		}
		left -= m
	}
	return nil
}

func contentLength(head []byte) (int, error) {
	_, rest, ok := bytes.Cut(head, []byte("\r\nContent-Length: "))
	line, _, end := bytes.Cut(rest, []byte("\r\n"))
	if !ok || !end {
		return 0, fmt.Errorf("the answer has no length: %q", head)
	}
	return strconv.Atoi(string(line))
}

// views opens n connections and asks once on each.
func views(s *server, n int) (all []*viewer, err error) {
	for range n {
		v, err := view(s.plain)
		if err != nil {
			return all, err
		}
		all = append(all, v)
		if err := v.ask(s.path); err != nil {
			return all, err
		}
	}
	return all, nil
}

func closeAll(all []*viewer) {
	for _, v := range all {
		v.c.Close()
	}
}

// holding measures the memory of a connection that is held between requests, and of one that waits for a still.
func holding(_ context.Context, p plan) error {
	dir, err := tmpfs()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, role := range []string{"server", "nethttp"} {
		s, err := start(dir, role, p.Bytes)
		if err != nil {
			return err
		}
		defer s.stop()
		warm, err := views(s, 50)
		closeAll(warm)
		if err != nil {
			return err
		}
		before, err := resident(s.cmd.Process.Pid)
		if err != nil {
			return err
		}
		all, err := views(s, p.Held)
		defer closeAll(all)
		if err != nil {
			return fmt.Errorf("%d connections: %w", len(all), err)
		}
		after, err := resident(s.cmd.Process.Pid)
		if err != nil {
			return err
		}
		name := map[string]string{"server": "sentryc", "nethttp": "nethttp"}[role]
		figure("held."+name+".memory", (after-before)/float64(p.Held)/1024, "KiB/connection")
		for _, v := range all {
			if err := v.send(s.path + "?after=1"); err != nil {
				return err
			}
		}
		time.Sleep(2 * time.Second) // they have arrived
		if after, err = resident(s.cmd.Process.Pid); err != nil {
			return err
		}
		figure("waiting."+name+".memory", (after-before)/float64(p.Held)/1024, "KiB/connection")
		closeAll(all)
		s.stop()
	}
	figure("held.connections", float64(p.Held), "connections")
	return nil
}

// polling has many viewers ask once a second, each on a connection of its own, while there is a new still each second.
func polling(ctx context.Context, p plan) error {
	return poll(ctx, p, "pollers", p.Pollers, p.Pollers, p.Bytes)
}

// rotating has more viewers ask once a second than this machine has descriptors for: they take turns on the connections
// that there are. Their stills are as small as the seed's.
func rotating(ctx context.Context, p plan) error {
	return poll(ctx, p, "rotation", p.Rotating, min(p.Rotating, p.Held), seedBytes)
}

// seedBytes is a still of the seed's: 120 Mbit/s to 5,000 viewers a second.
const seedBytes = 3000

// poll has viewers ask once a second on so many connections. What an answer takes counts from when it was due to be asked
// for, so that a viewer that has to wait for the one before it on its connection counts, too.
func poll(ctx context.Context, p plan, name string, viewers, connections, size int) error {
	dir, err := tmpfs()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := start(dir, "server", size)
	if err != nil {
		return err
	}
	defer s.stop()
	all, err := views(s, connections)
	defer closeAll(all)
	if err != nil {
		return fmt.Errorf("%d connections: %w", len(all), err)
	}
	ctx, stop := context.WithTimeout(ctx, p.Polling)
	defer stop()
	var (
		wg     sync.WaitGroup
		asked  atomic.Int64
		failed atomic.Pointer[error]
		mu     sync.Mutex
		delays []float64
	)
	before, err := cpu(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	begun := time.Now()
	between := time.Second * time.Duration(connections) / time.Duration(viewers) // of two requests on a connection
	for i, v := range all {
		wg.Go(func() {
			due := begun.Add(between * time.Duration(i) / time.Duration(connections))
			t := time.NewTimer(time.Until(due))
			defer t.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-t.C:
				}
				if err := v.ask(s.path); err != nil {
					failed.Store(&err)
					return
				}
				asked.Add(1)
				mu.Lock()
				delays = append(delays, time.Since(due).Seconds()*1000)
				mu.Unlock()
				due = due.Add(between)
				t.Reset(time.Until(due))
			}
		})
	}
	for ctx.Err() == nil {
		if _, err := s.add(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	wg.Wait()
	after, err := cpu(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if e := failed.Load(); e != nil {
		return *e
	}
	seconds := time.Since(begun).Seconds()
	figure(name+".viewers", float64(viewers), "viewers")
	figure(name+".connections", float64(connections), "connections")
	figure(name+".still", float64(size), "bytes")
	figure(name+".rate", float64(asked.Load())/seconds, "requests/s")
	figure(name+".cpu", (after-before).Seconds()/seconds*100, "%")
	figure(name+".answer.median", median(delays), "ms")
	figure(name+".answer.p99", quantile(delays, 0.99), "ms")
	return nil
}

// waiting gives stills to long polls, and measures how long it is until the last of them has it.
func waiting(_ context.Context, p plan) error {
	dir, err := tmpfs()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := start(dir, "server", p.Bytes)
	if err != nil {
		return err
	}
	defer s.stop()
	all, err := views(s, p.Waiting)
	defer closeAll(all)
	if err != nil {
		return err
	}
	var last, each []float64
	for n := 1; n <= p.Stills; n++ {
		ends := make([]time.Time, len(all))
		errs := make([]error, len(all))
		var asked, done sync.WaitGroup
		asked.Add(len(all))
		for i, v := range all {
			done.Go(func() {
				errs[i] = v.send(s.path + "?after=" + strconv.Itoa(n))
				asked.Done()
				if errs[i] == nil {
					errs[i] = v.read()
					ends[i] = time.Now()
				}
			})
		}
		asked.Wait()
		time.Sleep(200 * time.Millisecond) // the requests have arrived
		at, err := s.add()
		if err != nil {
			return err
		}
		done.Wait()
		worst := 0.0
		for i := range all {
			if errs[i] != nil {
				return errs[i]
			}
			d := ends[i].Sub(at).Seconds() * 1000
			worst = max(worst, d)
			each = append(each, d)
		}
		last = append(last, worst)
	}
	figure("waiting.polls", float64(p.Waiting), "connections")
	figure("waiting.each.median", median(each), "ms")
	figure("waiting.last.median", median(last), "ms")
	figure("waiting.last.p99", quantile(last, 0.99), "ms")
	return nil
}
