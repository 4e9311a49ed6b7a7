package map646

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// ErrChange is wrapped by Change's errors about what is asked for.
var ErrChange = errors.New("bad change")

// Change is one change of the table in force. Op is "add" (Outside is not
// mapped), "replace" (it is) or "remove" (it is; Inside is not looked at).
type Change struct {
	Op              string
	Outside, Inside netip.Prefix
}

// Changed counts what Change did.
type Changed struct {
	Added    int `json:"added"`
	Replaced int `json:"replaced"`
	Removed  int `json:"removed"`
	Mappings int `json:"mappings"` // in force now
}

// ReadChanges reads one change a line, `add OUTSIDE INSIDE`, `replace OUTSIDE
// INSIDE` or `remove OUTSIDE`; # begins a comment. Errors name the line.
func ReadChanges(r io.Reader) ([]Change, error) {
	var out []Change
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		w := strings.Fields(text)
		if len(w) == 0 {
			continue
		}
		c := Change{Op: w[0]}
		want := 3
		switch c.Op {
		case "remove":
			want = 2
		case "add", "replace":
		default:
			return nil, fmt.Errorf("%w: line %d: %q is none of add, replace and remove", ErrChange, n, c.Op)
		}
		if len(w) != want {
			return nil, fmt.Errorf("%w: line %d: %s: %d addresses, not %d", ErrChange, n, c.Op, len(w)-1, want-1)
		}
		var err error
		if c.Outside, err = parseHost(w[1]); err != nil {
			return nil, fmt.Errorf("%w: line %d: outside: %w", ErrChange, n, err)
		}
		if want == 3 {
			if c.Inside, err = parseHost(w[2]); err != nil {
				return nil, fmt.Errorf("%w: line %d: inside: %w", ErrChange, n, err)
			}
		}
		out = append(out, c)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChange, err)
	}
	return out, nil
}

// Change changes mappings while packets flow: all of the changes, or, with an
// error, none. They last until the next reload, which makes the table equal to
// the files again.
func (d *Daemon) Change(changes []Change) (Changed, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	done, err := d.change(changes)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.refused++
		return done, err
	}
	d.updates++
	done.Mappings = d.count4 + d.count6
	return done, nil
}

func (d *Daemon) change(changes []Change) (done Changed, err error) {
	if d.tun == nil {
		return done, errors.New("change: not running")
	}
	t := d.table.Load()
	detour := d.count6 > 0
	var c siit.Changes
	where := make([]int, 0, len(changes)) // of what is set, in changes
	seen := make(map[netip.Prefix]string, len(changes))
	fail := func(i int, format string, args ...any) (Changed, error) {
		return Changed{}, fmt.Errorf("%w: change %d: %s %v: %w", ErrChange, i+1, changes[i].Op, short(changes[i].Outside), fmt.Errorf(format, args...))
	}
	for i, x := range changes {
		before, known := seen[x.Outside]
		there := before == "add" || before == "replace"
		if !known {
			_, there = exact(t, x.Outside)
		}
		switch {
		case known && !(before == "remove" && x.Op == "add"):
			return fail(i, "is in another change, too")
		case x.Op == "add" && there:
			return fail(i, "is mapped already")
		case x.Op != "add" && !there:
			return fail(i, "%w", siit.ErrNotMapped)
		}
		seen[x.Outside] = x.Op
		switch x.Op {
		case "remove":
			c.Remove = append(c.Remove, x.Outside)
			done.Removed++
			continue
		case "add":
			if why := d.config.unmappable(x.Outside); why != "" {
				return fail(i, "%s", why)
			}
			done.Added++
		case "replace":
			done.Replaced++
		default:
			return fail(i, "%q is none of add, replace and remove", x.Op)
		}
		c.Set = append(c.Set, siit.Pair{Outside: x.Outside, Inside: x.Inside})
		where = append(where, i)
	}
	// The way to the device first: until the table has it, the answer is that there
	// is no such machine, as before.
	more := d.config.emptyPolicy()
	d.config.mappingPolicy(&more, func(yield func(siit.Entry) bool) {
		for _, p := range c.Set {
			if _, there := exact(t, p.Outside); !there && !yield(siit.Entry{Outside: p.Outside, Inside: p.Inside}) {
				return
			}
		}
	})
	if len(more.Routes)+len(more.Sources) > 0 {
		if err := d.ns.ExtendLinkPolicy(more); err != nil {
			return Changed{}, errors.Join(err, d.ns.ReduceLinkPolicy(more))
		}
	}
	removed, set, err := d.update(t, c)
	if err != nil {
		var i int
		if _, scan := fmt.Sscanf(err.Error(), "set[%d]", &i); scan == nil && i < len(where) {
			err = fmt.Errorf("change %d: %s %v: %w", where[i]+1, changes[where[i]].Op, short(changes[where[i]].Outside), err)
		}
		err = fmt.Errorf("%w: %w", ErrChange, err)
		if len(more.Routes)+len(more.Sources) > 0 {
			err = errors.Join(err, d.ns.SyncLinkPolicy(d.policy(d.config, t, d.withdrawn)))
		}
		return Changed{}, err
	}
	// What only the old ones needed; a source may have come back under another name.
	var less, now = d.config.emptyPolicy(), d.config.emptyPolicy()
	d.config.mappingPolicy(&less, values(removed))
	d.config.mappingPolicy(&now, values(set))
	sources := without(without(now.Sources, more.Sources), less.Sources) // of replaced mappings
	less.Routes, less.Sources = without(less.Routes, now.Routes), without(less.Sources, now.Sources)
	if len(sources) > 0 {
		more = d.config.emptyPolicy()
		more.Sources = sources
		err = errors.Join(err, d.ns.ExtendLinkPolicy(more))
	}
	if len(less.Routes)+len(less.Sources) > 0 {
		err = errors.Join(err, d.ns.ReduceLinkPolicy(less))
	}
	if detour != (d.count6 > 0) {
		p := d.config.emptyPolicy()
		if d.count6 > 0 {
			d.config.detour(&p)
		}
		err = errors.Join(err, d.ns.SyncDetour(p))
	}
	return done, err
}

func (c *Config) emptyPolicy() netio.LinkPolicy {
	return netio.LinkPolicy{Link: c.TUN.Name, Protocol: routeProtocol, Table: c.Table, Priority: c.Priority}
}

// update changes the table, then the kernel's copy of it, so that a mapping that
// is not in the fast path yet, or not any more, is the full path's.
func (d *Daemon) update(t *siit.Table, c siit.Changes) (removed, set []siit.Entry, err error) {
	removed, set, err = t.Update(c)
	if err != nil {
		return nil, nil, err
	}
	stays := make(map[netip.Prefix]bool, len(set))
	d.mu.Lock()
	for _, e := range set {
		stays[e.Outside] = true
		d.tally(e, 1)
	}
	for _, e := range removed {
		d.tally(e, -1)
	}
	d.mu.Unlock()
	d.fastUpdate(removed, nil)
	d.basesMu.Lock()
	for _, e := range removed {
		// The next mapping of this ID begins at zero; a replaced one goes on.
		if !stays[e.Outside] {
			d.bases.set(e.ID, d.queueCount(e.ID))
		}
	}
	d.basesMu.Unlock()
	d.fastUpdate(nil, set)
	return removed, set, nil
}

// difference is what makes t's mappings equal to those of c, which is valid.
func difference(t *siit.Table, c *Config) siit.Changes {
	var out siit.Changes
	want := make(map[netip.Prefix]netip.Prefix, len(c.Translation.Mappings)+len(c.Translation.Mappings66))
	for _, m := range c.Translation.Mappings {
		want[m.V4] = m.V6
	}
	for _, m := range c.Translation.Mappings66 {
		want[m.Service] = m.Inside
	}
	for e := range t.Entries() {
		switch in, ok := want[e.Outside]; {
		case !ok:
			out.Remove = append(out.Remove, e.Outside)
		case in == e.Inside:
			delete(want, e.Outside)
		}
	}
	for o, in := range want {
		out.Set = append(out.Set, siit.Pair{Outside: o, Inside: in})
	}
	return out
}

// replaceTable goes over to c's settings and makes the changes.
func (d *Daemon) replaceTable(was *siit.Table, c *Config, changes siit.Changes) error {
	next, err := was.Rebase(c.Translation)
	if err != nil {
		// A mapping that is about to go is in the way of a new prefix.
		if _, _, err := d.update(was, siit.Changes{Remove: changes.Remove}); err != nil {
			return err
		}
		changes.Remove = nil
		if next, err = was.Rebase(c.Translation); err != nil {
			// Or one that is about to move. All that is new has been checked as a whole, so
			// what is left is to begin anew, but for the counters.
			d.mu.Lock()
			d.count4, d.count6 = 0, 0
			for e := range c.table.Entries() {
				d.tally(e, 1)
			}
			d.mu.Unlock()
			d.rebaseCounters(c.table)
			d.table.Store(c.table)
			d.resyncFast()
			return nil
		}
	}
	if len(changes.Remove)+len(changes.Set) > 0 {
		if _, _, err := d.update(next, changes); err != nil {
			return err
		}
	}
	c.table = next
	d.table.Store(next)
	return nil
}

// exact finds the mapping of just this prefix.
func exact(t *siit.Table, outside netip.Prefix) (siit.Entry, bool) {
	e, ok := t.Lookup(outside.Addr())
	if !ok || e.Outside == outside || outside.IsSingleIP() {
		return e, ok && e.Outside == outside
	}
	// A prefix that has a longer one at its beginning.
	for e := range t.Entries() {
		if e.Outside == outside {
			return e, true
		}
	}
	return siit.Entry{}, false
}

func values(list []siit.Entry) func(func(siit.Entry) bool) {
	return func(yield func(siit.Entry) bool) {
		for _, e := range list {
			if !yield(e) {
				return
			}
		}
	}
}

func without[T comparable](a, b []T) []T {
	if len(a) == 0 || len(b) == 0 {
		return a
	}
	gone := make(map[T]bool, len(b))
	for _, p := range b {
		gone[p] = true
	}
	var out []T
	for _, p := range a {
		if !gone[p] {
			out = append(out, p)
		}
	}
	return out
}

// short leaves out the full length.
func short(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
