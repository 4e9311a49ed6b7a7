package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"widecloud/internal/map646"
)

// actDC does a statement that only a data centre has.
func (r *runner) actDC(ctx context.Context, do any) error {
	switch s := do.(type) {
	case *MapStmt:
		return r.changeTable(ctx, s)
	case *Map646Stmt:
		for _, n := range r.translators(s.Translator) {
			out, err := runMap646(ctx, n, s.Args)
			if err != nil {
				return err
			}
			for line := range strings.Lines(out) {
				r.out.under("%s: %s", n.name, strings.TrimRight(line, "\n"))
			}
		}
		return nil
	case *ChurnStmt:
		r.churn = startChurn(r.fed.dc, s)
		return nil
	}
	return fmt.Errorf("a statement of type %T cannot be done", do)
}

// translators are those of a name, or all, in the script's order.
func (r *runner) translators(name string) (l []*Node) {
	for _, t := range r.script.DC.Translators {
		if name == "all" || name == t.Name {
			l = append(l, r.fed.dc.translators[t.Name])
		}
	}
	return l
}

// runMap646 runs the map646 command on a translator, as its operator would.
func runMap646(ctx context.Context, n *Node, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := n.Command(ctx, nodeBin+"/map646", args...).Output()
	if text := strings.TrimSpace(string(out)); err != nil && text != "" {
		err = fmt.Errorf("%w; it printed: %s", err, text)
	}
	return string(out), err
}

// changeTable maps addresses on all translators that run, and in the mappings
// files of all.
func (r *runner) changeTable(ctx context.Context, s *MapStmt) error {
	d := r.fed.dc
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range s.Service {
		args := []string{"remove", a.String()}
		if s.Server == "" {
			delete(d.table, a)
		} else {
			verb := "add"
			if d.table[a].IsValid() {
				verb = "replace"
			}
			d.table[a] = r.script.DC.server(s.Server).addr()
			args = []string{verb, a.String(), d.table[a].String()}
		}
		for _, n := range r.translators("all") {
			if !n.serves() {
				continue
			}
			if _, err := runMap646(ctx, n, args); err != nil {
				return err
			}
		}
	}
	return d.writeTable("")
}

// serves tells whether a translator's map646 runs.
func (n *Node) serves() bool {
	p := n.Process(map646Process)
	return n.On() && p != nil && !p.ended()
}

// writeTable writes the mappings files of all translators.
func (d *dataCentre) writeTable(more string) error {
	var errs []error
	for _, n := range d.translators {
		errs = append(errs, n.writeDisk(mappings, d.lines(more)))
	}
	return errors.Join(errs...)
}

// churn changes the tables of all translators again and again.
type churn struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	once   sync.Once

	// Of the goroutine, until it is done.
	changes int
	errs    []error
}

// Addresses that are mapped to nobody, for changes.
var (
	churned4 = netip.MustParseAddr("203.0.113.200")
	churned6 = netip.MustParseAddr("2001:db8:f::c8")
)

// startChurn begins: "table" adds, replaces and removes two mappings of nobody's
// by map646's commands, "reload" has map646 read a file that has changed.
func startChurn(d *dataCentre, s *ChurnStmt) *churn {
	ctx, cancel := context.WithCancel(context.Background())
	c := &churn{cancel: cancel}
	c.done.Go(func() {
		tick := time.NewTicker(s.Every)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, t := range d.spec.Translators {
				n := d.translators[t.Name]
				if err := c.change(ctx, d, n, s.What, i); err != nil && ctx.Err() == nil {
					c.errs = append(c.errs, fmt.Errorf("%s: %w", n.name, err))
				} else if ctx.Err() == nil {
					c.changes++
				}
			}
		}
	})
	return c
}

func (c *churn) change(ctx context.Context, d *dataCentre, n *Node, what string, i int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	inside := numbered(churnInside, uint32(i+1))
	if what == "reload" {
		// Beside what is mapped: two mappings that come, change and go.
		more := ""
		if i%3 < 2 {
			more = string(mappingLines(map[netip.Addr]netip.Addr{churned4: inside, churned6: inside}))
		}
		if err := n.writeDisk(mappings, d.lines(more)); err != nil {
			return err
		}
		_, err := runMap646(ctx, n, []string{"reload"})
		return err
	}
	for _, a := range []netip.Addr{churned4, churned6} {
		args := [][]string{{"add", a.String(), inside.String()}, {"replace", a.String(), inside.String()}, {"remove", a.String()}}[i%3]
		if _, err := runMap646(ctx, n, args); err != nil {
			return err
		}
	}
	return nil
}

func (c *churn) stop() {
	c.once.Do(func() {
		c.cancel()
		c.done.Wait()
	})
}

// stopChurn is a check: there were changes, all went well, and what they left can
// be cleared away.
func (r *runner) stopChurn(ctx context.Context, st Statement) {
	c, d := r.churn, r.fed.dc
	r.churn = nil
	c.stop()
	err := d.writeTable("")
	for _, n := range r.translators("all") {
		if n.serves() {
			_, e := runMap646(ctx, n, []string{"reload"})
			err = errors.Join(err, e)
		}
	}
	k := Check{Pos: st.Pos, Text: st.Text, OK: c.changes > 0 && len(c.errs) == 0 && err == nil, Detail: fmt.Sprintf("%d changes, none failed", c.changes)}
	if !k.OK {
		k.Detail = fmt.Sprintf("%d changes went well, %d failed: %v", c.changes, len(c.errs), errors.Join(append(c.errs[:min(3, len(c.errs))], err)...))
	}
	r.check(k)
}

// judgeDC judges what only a data centre is expected to be.
func (r *runner) judgeDC(ctx context.Context, e *ExpectStmt) (string, error) {
	switch e.What {
	case "translator":
		return r.judgeTranslator(ctx, e)
	case "map646":
		var line string
		err := until(ctx, e.Within, func(ctx context.Context) error {
			out, err := runMap646(ctx, r.fed.dc.translators[e.Target], e.Args)
			if err != nil {
				return err
			}
			for l := range strings.Lines(out) {
				if strings.Contains(l, e.Says) {
					line = strings.Join(strings.Fields(l), " ")
					return nil
				}
			}
			return fmt.Errorf("it says: %s", strings.TrimSpace(out))
		})
		return line, err
	case "traceroute":
		return r.judgeTraceroute(ctx, e)
	case "pmtu":
		return r.judgePMTU(ctx, e)
	case "name":
		var answer string
		err := until(ctx, e.Within, func(ctx context.Context) (err error) {
			answer, err = startClient(ctx, r.fed.from(e.From), clientSpec{Lookup: e.Target}).lookup()
			if err == nil && answer != e.Through[0].String() {
				err = fmt.Errorf("%s is %s", e.Target, answer)
			}
			return err
		})
		return answer, err
	}
	return "", fmt.Errorf("an expectation %q cannot be judged", e.What)
}

func (c *Cmd) lookup() (string, error) {
	out, err := c.Output()
	return strings.Join(strings.Fields(string(out)), ", "), err
}

// translated counts the packets that either path has translated.
func translated(ctx context.Context, n *Node) (full, fast uint64, err error) {
	var s map646.Stats
	if err := map646.Control(ctx, n.Path(map646Control), "stats", &s); err != nil {
		return 0, 0, err
	}
	for _, way := range []string{"4to6", "6to4", "6to6"} {
		full += s.Packets[way]
		if s.Fast != nil {
			fast += s.Fast.Packets[way]
		}
	}
	return full, fast, nil
}

// idleFor is how long a translator must have had nothing to do to be idle.
const idleFor = time.Second

// judgeTranslator sees whether a translator translates at all, and on which path.
func (r *runner) judgeTranslator(ctx context.Context, e *ExpectStmt) (detail string, err error) {
	n := r.fed.dc.translators[e.Target]
	err = until(ctx, e.Within, func(ctx context.Context) error {
		full0, fast0, err := translated(ctx, n)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(idleFor):
		}
		full, fast, err := translated(ctx, n)
		if err != nil {
			return err
		}
		full, fast = full-full0, fast-fast0
		detail = fmt.Sprintf("%d packets on the fast path, %d on the full one in %v", fast, full, idleFor)
		ok := map[string]bool{"": full+fast > 0, "fast": fast > full, "full": full > fast}[e.Path]
		if e.Want == "idle" {
			ok = full+fast == 0
		}
		if !ok {
			return errors.New(detail)
		}
		return nil
	})
	return detail, err
}

// hopRE is a line of traceroute -n -q 1: number, then address and time, or *.
var hopRE = regexp.MustCompile(`(?m)^ *(\d+) +(\*|[0-9a-f.:]+)`)

// judgeTraceroute follows the path by Debian's traceroute: each hop must answer,
// and the last must be the target. More than once if need be: with one process
// id in fifty or so it overlooks ICMPv6 answers that are there, and kernels limit
// the rate of their errors.
func (r *runner) judgeTraceroute(ctx context.Context, e *ExpectStmt) (path string, err error) {
	err = until(ctx, e.Within, func(ctx context.Context) (err error) { path, err = r.traceroute(ctx, e); return err })
	return path, err
}

func (r *runner) traceroute(ctx context.Context, e *ExpectStmt) (string, error) {
	to, err := r.host(e.Target, e.From)
	if err != nil {
		return "", err
	}
	args := []string{"-n", "-q", "1", "-N", "1", "-w", "1", "-m", strconv.FormatInt(e.Limit+2, 10)}
	switch e.By {
	case "icmp":
		args = append(args, "-I")
	case "tcp":
		args = append(args, "-T", "-p", "80")
	}
	out, err := r.fed.from(e.From).Command(ctx, "traceroute", append(args, to)...).Output()
	if err != nil {
		return "", err
	}
	var hops []string
	_, lines, _ := strings.Cut(string(out), "\n")
	for _, m := range hopRE.FindAllStringSubmatch(lines, -1) {
		hops = append(hops, m[2])
	}
	path := strings.Join(hops, " ")
	switch silent := strings.Count(path, "*"); {
	case silent != e.Silents:
		return "", fmt.Errorf("%d hops do not answer: %s", silent, path)
	case len(hops) == 0 || hops[len(hops)-1] != to:
		return "", fmt.Errorf("the path does not end at %s: %s", to, path)
	case len(hops) != int(e.Limit):
		return "", fmt.Errorf("%d hops: %s", len(hops), path)
	}
	for _, a := range e.Through {
		if !slices.Contains(hops, a.String()) {
			return "", fmt.Errorf("%s is not among the hops: %s", a, path)
		}
	}
	return path, nil
}

var (
	pmtuRE = regexp.MustCompile(`Resume: pmtu (\d+)`)
	pingRE = regexp.MustCompile(`mtu[ =:]+(\d+)`)
)

// judgePMTU finds the path's MTU by Debian's tracepath, and then sees by ping that
// a packet of this size, which must not be cut, is answered; and that the kernel
// has learned it: it refuses to send one that is a byte bigger.
func (r *runner) judgePMTU(ctx context.Context, e *ExpectStmt) (string, error) {
	to, err := r.host(e.Target, e.From)
	if err != nil {
		return "", err
	}
	n := r.fed.from(e.From)
	out, err := n.Command(ctx, "tracepath", "-n", "-m", "15", to).Output()
	if err != nil {
		return "", err
	}
	found := pmtuRE.FindStringSubmatch(string(out))
	if found == nil || found[1] != strconv.FormatInt(e.Limit, 10) {
		return "", fmt.Errorf("tracepath says: %s", strings.Join(strings.Fields(string(out)), " "))
	}
	header := int64(20 + 8)
	if strings.Contains(to, ":") {
		header = 40 + 8
	}
	ping := func(size int64) (string, error) {
		out, err := n.Command(ctx, "ping", "-n", "-c", "1", "-W", "3", "-M", "do", "-s", strconv.FormatInt(size-header, 10), to).CombinedOutput()
		return string(out), err
	}
	if text, err := ping(e.Limit); err != nil {
		return "", fmt.Errorf("ping of %d bytes: %w: %s", e.Limit, err, strings.TrimSpace(text))
	}
	text, err := ping(e.Limit + 1)
	if m := pingRE.FindStringSubmatch(text); err == nil || m == nil || m[1] != found[1] {
		return "", fmt.Errorf("ping of %d bytes is not refused: %s", e.Limit+1, strings.TrimSpace(text))
	}
	return "tracepath and ping agree on " + found[1], nil
}
