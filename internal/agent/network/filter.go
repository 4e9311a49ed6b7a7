package network

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"widecloud/internal/netio"
)

// filter keeps the host's rule set. It has a lock of its own, so that a plug that appears is let in while the driver is busy
// with other things.
type filter struct {
	ns         *netio.NS
	nft        string // path
	log        *slog.Logger
	file       string // keeps what has been loaded, over a restart
	mobilities map[string]mobility

	mu    sync.Mutex
	want  Want
	plugs []plug
	// loaded are digests of the tables' texts, and of what nft printed of them (without elements) after they were loaded.
	loaded map[string]loadedTable
	// have are the elements in the kernel, as of the rule set's generation at; 0: to be read anew.
	have elements
	at   uint32
}

type loadedTable struct{ Text, Listing string }

func (f *filter) open() error {
	b, err := os.ReadFile(f.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &f.loaded); err != nil {
		return fmt.Errorf("read %s: %w", f.file, err)
	}
	return nil
}

// apply makes the rule set that of a host that carries w's networks.
func (f *filter) apply(ctx context.Context, w Want) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.want = w
	return f.sync(ctx)
}

// refresh lets the ports in that have appeared since.
func (f *filter) refresh(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.want.Networks) == 0 {
		return nil
	}
	return f.sync(ctx)
}

// sync changes what differs, in one transaction. Tables are loaded anew only where their text, or what the kernel has of it,
// is not what it should be.
func (f *filter) sync(ctx context.Context) error {
	links, err := f.ns.Links()
	if err != nil {
		return err
	}
	plugs, strangers := plugsOf(f.want, links, f.mobilities)
	want := elementsOf(f.want, plugs, strangers, f.mobilities)
	generation, err := f.ns.NftGeneration()
	if err != nil {
		return err
	}
	listings := map[string]string{} // of tables that are there, without elements
	if f.at == 0 || f.at != generation {
		if listings, err = f.read(ctx, links); err != nil {
			return err
		}
	} else {
		for t, l := range f.loaded {
			listings[t] = l.Listing
		}
	}
	script, loaded, err := f.script(want, listings)
	if err != nil {
		return err
	}
	if script == "" {
		f.plugs, f.at = plugs, generation
		return nil
	}
	f.at = 0
	if _, err := f.ns.Nft(ctx, f.nft, script, "-f", "-"); err != nil {
		return err
	}
	f.plugs, f.have = plugs, want
	if err := f.remember(ctx, loaded); err != nil {
		return err
	}
	// Somebody else's change between ours and here would go unnoticed if it were taken for ours.
	if now, err := f.ns.NftGeneration(); err == nil && now == generation+1 {
		f.at = now
	}
	return nil
}

// script renders the commands that make the tables right, and the digests of the texts that it loads.
func (f *filter) script(want elements, listings map[string]string) (string, map[string]loadedTable, error) {
	var b strings.Builder
	loaded := map[string]loadedTable{}
	for _, t := range tablesOf(f.want) {
		text, err := t.script(f.want)
		if err != nil {
			return "", nil, err
		}
		have := f.have
		was, listing := f.loaded[t.String()], listings[t.String()]
		if was.Text != digest(text) || was.Listing != listing || listing == "" {
			if was.Text == digest(text) && listing != "" {
				f.log.Warn("the rule set was changed by somebody else; load it again", "table", t.String())
			}
			b.WriteString(text)
			have, loaded[t.String()] = nil, loadedTable{Text: digest(text)}
		}
		for _, s := range t.sets {
			key := t.String() + " " + s.name
			writeElements(&b, "delete", key, have[key], want[key])
			writeElements(&b, "add", key, want[key], have[key])
		}
	}
	for _, t := range tables {
		if listings[t.String()] != "" && !slices.ContainsFunc(tablesOf(f.want), func(o table) bool { return o.String() == t.String() }) {
			fmt.Fprintf(&b, "delete table %s\n", t)
			delete(f.loaded, t.String())
		}
	}
	return b.String(), loaded, nil
}

// tablesOf are the tables that a host needs.
func tablesOf(w Want) (out []table) {
	for _, t := range tables {
		if len(w.Networks) > 0 && (w.Role.Hypervisor || t.rules != seenRules) {
			out = append(out, t)
		}
	}
	return out
}

func writeElements(b *strings.Builder, verb, set string, these, without map[string]bool) {
	var list []string
	for e := range these {
		if !without[e] {
			list = append(list, e)
		}
	}
	if len(list) > 0 {
		slices.Sort(list)
		fmt.Fprintf(b, "%s element %s { %s }\n", verb, set, strings.Join(list, ", "))
	}
}

// remember keeps the digests of tables that have been loaded, with what nft says of them.
func (f *filter) remember(ctx context.Context, loaded map[string]loadedTable) error {
	if len(loaded) == 0 {
		return nil
	}
	for t, l := range loaded {
		out, err := f.ns.Nft(ctx, f.nft, "", slices.Concat([]string{"-s", "-t", "list", "table"}, strings.Fields(t))...)
		if err != nil {
			return err
		}
		l.Listing = digest(out)
		if f.loaded == nil {
			f.loaded = map[string]loadedTable{}
		}
		f.loaded[t] = l
	}
	b, err := json.Marshal(f.loaded)
	if err != nil {
		return err
	}
	return replaceFile(f.file, b)
}

// read asks the kernel for its elements, and returns the digests of the tables that are there.
func (f *filter) read(ctx context.Context, links []netio.Link) (map[string]string, error) {
	f.have = elements{}
	there, err := f.ns.Nft(ctx, f.nft, "", "list", "tables")
	if err != nil {
		return nil, err
	}
	listings := map[string]string{}
	for _, t := range tables {
		if !strings.Contains(there, "table "+t.String()+"\n") {
			continue
		}
		list := func(flags ...string) (string, error) {
			return f.ns.Nft(ctx, f.nft, "", slices.Concat(flags, []string{"list", "table", t.family, t.name})...)
		}
		out, err := list("-s", "-t")
		if err != nil {
			return nil, err
		}
		listings[t.String()] = digest(out)
		if out, err = list(); err != nil {
			return nil, err
		}
		parsed := parseSets(out, links)
		for _, s := range t.sets {
			if !s.dynamic {
				f.have[t.String()+" "+s.name] = parsed[s.name]
			}
		}
	}
	return listings, nil
}

// parseSets reads the elements out of what nft prints of a table, by set. Interfaces, which nft shows by name where a set has
// their number, are turned back.
func parseSets(listing string, links []netio.Link) map[string]map[string]bool {
	numbers := map[string]string{}
	for _, l := range links {
		numbers[strconv.Quote(l.Name)] = strconv.Itoa(l.Index)
	}
	out := map[string]map[string]bool{}
	for _, block := range strings.Split(listing, "\n\tset ")[1:] {
		block, _, _ = strings.Cut(block, "\n\t}")
		name, body, _ := strings.Cut(block, " {")
		header, list, _ := strings.Cut(body, "elements = {")
		byNumber := strings.Contains(header, "iface_index") || strings.Contains(header, "typeof iif ")
		list, _, _ = strings.Cut(list, "}")
		out[name] = map[string]bool{}
		for e := range strings.SplitSeq(list, ",") {
			if e = strings.TrimSpace(e); e == "" {
				continue
			}
			first, rest, more := strings.Cut(e, " . ")
			if n, ok := numbers[first]; ok && byNumber {
				first = n
			}
			if more {
				first += " . " + rest
			}
			out[name][canonical(first)] = true
		}
	}
	return out
}

// canonical renders an element with its numbers in one way: nft prints those of raw bytes in hexadecimal, without leading zeros.
func canonical(element string) string {
	parts := strings.Split(element, " . ")
	for i, p := range parts {
		if digits, ok := strings.CutPrefix(p, "0x"); ok {
			parts[i] = "0x" + cmp.Or(strings.TrimLeft(digits, "0"), "0")
		} else if n, err := strconv.ParseUint(p, 10, 64); err == nil {
			parts[i] = "0x" + strconv.FormatUint(n, 16)
		}
	}
	return strings.Join(parts, " . ")
}

// number renders a MAC as nft has raw bytes.
func number(mac net.HardwareAddr) string { return fmt.Sprintf("%#x", []byte(mac)) }

func digest(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

// plugged returns the plugs that are let in.
func (f *filter) plugged() []plug {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.plugs)
}
