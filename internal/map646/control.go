package map646

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"widecloud/internal/packet/siit"
)

// Stats is what the daemon has counted since its start. A super-packet counts
// as one packet.
type Stats struct {
	Device string `json:"device"`
	// Packets and Bytes (of IP, as they came in) by reason: "4to6", "no_mapping", …
	Packets map[string]uint64 `json:"packets"`
	Bytes   map[string]uint64 `json:"bytes"`
	// QueuePackets are all packets of each queue.
	QueuePackets []uint64 `json:"queue_packets"`
	ICMPSent     uint64   `json:"icmp_sent"`
	ICMPLimited  uint64   `json:"icmp_limited"`
	WriteErrors  uint64   `json:"write_errors"`

	Mappings     int       `json:"mappings"`
	Mappings66   int       `json:"mappings66"`
	Loaded       time.Time `json:"loaded"`
	Reloads      uint64    `json:"reloads"`
	ReloadErrors uint64    `json:"reload_errors"`
	ReloadError  string    `json:"reload_error,omitempty"` // of the last reload
}

// TableEntry is one mapping, as `map646 table` shows it.
type TableEntry struct {
	Outside string `json:"outside"`
	Inside  string `json:"inside"`
}

// Stats reads the counters, without holding up the queues.
func (d *Daemon) Stats() Stats {
	d.mu.Lock()
	c := d.config
	s := Stats{
		Device: c.TUN.Name, Packets: map[string]uint64{}, Bytes: map[string]uint64{},
		Mappings: len(c.Translation.Mappings), Mappings66: len(c.Translation.Mappings66),
		Loaded: d.loaded, Reloads: d.reloads, ReloadErrors: d.failures, ReloadError: d.lastErr,
	}
	d.mu.Unlock()
	for _, q := range d.queues {
		var all uint64
		for r := range siit.Reason(siit.NumReasons) {
			n := q.packets[r].Load()
			s.Packets[r.String()] += n
			s.Bytes[r.String()] += q.bytes[r].Load()
			all += n
		}
		s.QueuePackets = append(s.QueuePackets, all)
		s.ICMPSent += q.icmpSent.Load()
		s.ICMPLimited += q.icmpLimited.Load()
		s.WriteErrors += q.writeErrors.Load()
	}
	return s
}

// Table lists the mappings in force.
func (d *Daemon) Table() []TableEntry {
	t := d.table.Load()
	s := t.Spec()
	out := []TableEntry{}
	if s.Pref64.IsValid() {
		out = append(out, TableEntry{"0.0.0.0/0", s.Pref64.String()})
	}
	text := func(p netip.Prefix) string {
		if p.IsSingleIP() {
			return p.Addr().String()
		}
		return p.String()
	}
	for e := range t.Entries() {
		out = append(out, TableEntry{text(e.Outside), text(e.Inside)})
	}
	return out
}

// serveControl answers on the control socket until ctx ends. The socket is for
// its owner alone: whoever can reload decides what is translated.
func (d *Daemon) serveControl(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("open control socket: %s answers already", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("open control socket: %w", err), l.Close())
	}
	m := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	m.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) { answer(w, d.Stats()) })
	m.HandleFunc("GET /table", func(w http.ResponseWriter, _ *http.Request) { answer(w, d.Table()) })
	m.HandleFunc("POST /reload", func(w http.ResponseWriter, _ *http.Request) {
		if err := d.Reload(); err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		answer(w, d.Stats())
	})
	s := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve control socket: %w", err)
	}
	return nil
}

// Control asks the daemon behind a control socket: "stats" and "table" fill out
// with their JSON, "reload" reloads and fills it with the statistics. A failed
// reload's error has the daemon's words.
func Control(ctx context.Context, socket, what string, out any) error {
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	method := http.MethodGet
	if what == "reload" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://map646/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", socket, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask %s: %w", socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(string(bytes.TrimSpace(body)))
	}
	return json.Unmarshal(body, out)
}
