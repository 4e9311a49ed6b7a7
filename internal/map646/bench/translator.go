package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"widecloud/internal/netio"
)

func numCPU() int { return runtime.NumCPU() }

// offset is the address n behind a; only the last four bytes count.
func offset(a netip.Addr, n int) netip.Addr {
	raw := a.AsSlice()
	last := raw[len(raw)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(n))
	out, _ := netip.AddrFromSlice(raw)
	return out
}

// config is the map646 configuration of a world.
func config(s worldSpec, control, mappings, listen string, queues int) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("control = %q", control)
	p("linger = \"0s\"")
	p("inside = [\"2001:db8:a::/48\"]")
	if !s.sixes() {
		p("pref64 = \"2001:db8:64::/96\"")
	}
	if mappings != "" {
		p("mappings_file = %q", mappings)
	}
	p("[tun]")
	p("name = \"map646\"")
	p("queues = %d", queues)
	switch {
	case s.sixes():
		p("addresses = [\"2001:db8:f::ffff/64\"]")
	case s.Table > 0:
		p("addresses = [\"10.31.255.254/11\", \"2001:db8:64::1/96\"]")
	default:
		p("addresses = [\"203.0.113.254/24\", \"2001:db8:64::1/96\"]")
	}
	if s.fast() {
		p("[fast]")
		p("devices = [\"c\", \"s\"]")
		p("pin = \"\"")
		if s.stack() {
			p("forward = \"kernel\"")
		}
	}
	if listen != "" {
		p("[metrics]")
		p("listen = %q", listen)
	}
	switch {
	case s.Prefix:
		p("[[map]]\nv4 = \"%v\"\nv6 = \"%v\"", prefixV4, prefixV6)
	case s.sixes():
		p("[[map66]]\nservice = \"%v\"\ninside = \"%v\"", serviceV6, serverV6)
	case s.Table == 0:
		p("[[map]]\nv4 = \"%v\"\nv6 = \"%v\"", serviceV4, serverV6)
	}
	return b.String()
}

// taygaConfig is what TAYGA reads (tayga.conf(5)).
func taygaConfig(dir string) string {
	return fmt.Sprintf("tun-device nat64\nipv4-addr 203.0.113.253\nprefix 2001:db8:64::/96\nmap %v %v\ndata-dir %s\n", serviceV4, serverV6, dir)
}

// writeMappings writes the big table in the first map646's syntax.
func writeMappings(path string, n int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	out := bufio.NewWriterSize(f, 1<<20)
	for i := range n {
		fmt.Fprintf(out, "map-static %v %v\n", offset(manyV4, i), offset(manyV6, i))
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// metricsAddr is where the translator of the big table shows its metrics, inside
// its namespace.
const metricsAddr = "127.0.0.1:9646"

// translate starts the path's translator.
func (w *world) translate(ctx context.Context, binary string, queues int) (err error) {
	switch w.spec.Path {
	case "ipv4", "ipv6":
		return nil
	case "tun":
		return w.detour(ctx, queues)
	case "tayga":
		conf := filepath.Join(w.dir, "tayga.conf")
		if err := os.WriteFile(conf, []byte(taygaConfig(w.dir)), 0o600); err != nil {
			return err
		}
		if _, err := w.run(ctx, "t", "", "tayga", "-c", conf, "--mktun"); err != nil {
			return err
		}
		if err := w.ns["t"].SetUp("nat64"); err != nil {
			return err
		}
		for _, dst := range []string{"203.0.113.0/24", "2001:db8:64::/96"} {
			if err := w.ns["t"].AddRoute(netio.Route{Dst: netip.MustParsePrefix(dst), Link: "nat64"}); err != nil {
				return err
			}
		}
		w.daemon, err = w.start("t", exec.Command("tayga", "-c", conf, "--nodetach"))
		return err
	}
	mappings, listen := "", ""
	if w.spec.Table > 0 && !w.spec.Prefix {
		mappings = filepath.Join(w.dir, "many.conf")
		if err := writeMappings(mappings, w.spec.Table); err != nil {
			return err
		}
	}
	if w.spec.Metrics {
		listen = metricsAddr
	}
	w.control = filepath.Join(w.dir, "control")
	conf := filepath.Join(w.dir, "map646.toml")
	if err := os.WriteFile(conf, []byte(config(w.spec, w.control, mappings, listen, queues)), 0o600); err != nil {
		return err
	}
	w.daemon, err = w.start("t", exec.Command(binary, "run", "-c", conf))
	return err
}
