package agent

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"widecloud/internal/map646"
	"widecloud/internal/wire"
)

// Map646 is the Translator of a gateway: it writes the mappings file that map646's configuration names
// (mappings_file) and has map646 read it again. map646 itself is started by the host, and goes on without the agent.
type Map646 struct {
	File    string // written by the agent, read by map646
	Control string // map646's control socket

	mu     sync.Mutex
	loaded bool // File is what map646 has read
}

// Apply is Translator's.
func (m *Map646) Apply(ctx context.Context, _ netip.Prefix, mappings []wire.Mapping) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b bytes.Buffer
	b.WriteString("# Written by wcc agent; changes are overwritten.\n")
	for _, p := range mappings {
		if p.Service.Is4() {
			fmt.Fprintf(&b, "map-static %s %s\n", p.Service, p.Target)
		} else {
			fmt.Fprintf(&b, "map66-static %s %s\n", p.Service, p.Target)
		}
	}
	have, err := os.ReadFile(m.File)
	if err == nil && bytes.Equal(have, b.Bytes()) && m.loaded {
		return nil
	}
	if err != nil || !bytes.Equal(have, b.Bytes()) {
		m.loaded = false
		if err := replaceFile(m.File, b.Bytes()); err != nil {
			return fmt.Errorf("write the translator's mappings: %w", err)
		}
	}
	var loaded map646.Reloaded // what it refuses of them is in Report
	if err := map646.Control(ctx, m.Control, "reload", &loaded); err != nil {
		return fmt.Errorf("have map646 read its mappings: %w", err)
	}
	m.loaded = true
	return nil
}

// Report is Translator's.
func (m *Map646) Report(ctx context.Context) wire.TranslatorReport {
	r := wire.TranslatorReport{Mappings: []netip.Addr{}}
	var table []map646.TableEntry
	if err := map646.Control(ctx, m.Control, "table", &table); err != nil {
		r.Message = err.Error()
		m.mu.Lock()
		m.loaded = false // a map646 that comes back reads the file by itself; asking again costs nothing
		m.mu.Unlock()
		return r
	}
	r.Running = true
	// Not a reason to do anything here: map646 itself withdraws from routing what it should not have.
	var sick []string
	if err := map646.Control(ctx, m.Control, "health", &sick); err != nil {
		sick = []string{err.Error()}
	}
	var refused []map646.RefusedLine
	if err := map646.Control(ctx, m.Control, "refused", &refused); err != nil {
		sick = append(sick, err.Error())
	}
	r.Message = strings.Join(sick, "; ")
	for _, l := range refused {
		if a, err := netip.ParseAddr(l.Outside); err == nil {
			r.Refused = append(r.Refused, wire.RefusedMapping{Service: a, Message: l.Reason})
		}
	}
	for _, e := range table {
		a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimSuffix(e.Outside, "/32"), "/128"))
		if err != nil {
			continue
		}
		r.Mappings = append(r.Mappings, a)
		if e.MappingCount != (map646.MappingCount{}) && len(r.Traffic) < wire.MaxTraffic {
			r.Traffic = append(r.Traffic, wire.ServiceTraffic{
				Service: a, PacketsIn: int64(e.PacketsIn), BytesIn: int64(e.BytesIn), PacketsOut: int64(e.PacketsOut), BytesOut: int64(e.BytesOut),
			})
		}
	}
	r.Outcomes = m.outcomes(ctx)
	slices.SortFunc(r.Mappings, netip.Addr.Compare)
	return r
}

// outcomes is what map646 has counted of all packets, by both of its paths; nil: it does not say.
func (m *Map646) outcomes(ctx context.Context) (out []wire.OutcomeCount) {
	var s map646.Stats
	if err := map646.Control(ctx, m.Control, "stats", &s); err != nil {
		return nil
	}
	packets, bytes := map[string]uint64{}, map[string]uint64{}
	add := func(p, b map[string]uint64) {
		for name, n := range p {
			packets[name] += n
			bytes[name] += b[name]
		}
	}
	add(s.Packets, s.Bytes)
	if s.Fast != nil {
		left := func(name string, _ uint64) bool { return strings.HasPrefix(name, "pass_") } // to the full path, which counts them
		maps.DeleteFunc(s.Fast.Packets, left)
		add(s.Fast.Packets, s.Fast.Bytes)
	}
	for _, name := range slices.Sorted(maps.Keys(packets)) {
		if packets[name] > 0 && len(out) < wire.MaxOutcomes {
			out = append(out, wire.OutcomeCount{Outcome: name, Packets: int64(packets[name]), Bytes: int64(bytes[name])})
		}
	}
	return out
}

// replaceFile writes a file wholly or not at all.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed, as it should
	if _, err := f.Write(content); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
