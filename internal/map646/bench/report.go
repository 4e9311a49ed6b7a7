package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// ratioLoads are the loads whose cost is compared to plain IPv6; the rest are
// figures.
var ratioLoads = []string{"tcp1", "tcp1r", "tcp4", "tcp_mtu", "udp64", "udp64_single", "udp64_burst", "web", "full_table", "scraped"}

// figure is one number of the output.
type figure struct {
	Name  string
	Value float64
	Unit  string
}

// report is what a run has to say.
type report struct {
	book    *book
	paths   []string
	extra   []figure // those that are no samples of rounds
	about   string   // a sentence or two on machine and settings
	ended   string   // date
	mapping int      // of the full table
}

// lines is the output for programs: `ratio PATH.LOAD VALUE` and `figure NAME
// VALUE UNIT`.
func (r *report) lines() string {
	var b strings.Builder
	for _, load := range ratioLoads {
		for _, path := range allPaths {
			if s := r.ratio(path, load); path != base && s.N > 0 {
				fmt.Fprintf(&b, "ratio %s %.3f\n", key{path, load}, s.Median)
			}
		}
	}
	for _, f := range r.figures() {
		fmt.Fprintf(&b, "figure %s %s %s\n", f.Name, short(f.Value), f.Unit)
	}
	return b.String()
}

// ratio is what a load costs on a path, against plain IPv6.
func (r *report) ratio(path, load string) summary {
	return r.book.ratio(key{path, load}, key{base, load})
}

// overTUN is what a load costs on the full path, against packets that are put back
// as they were.
func (r *report) overTUN(load string) summary {
	return r.book.ratio(key{"full", load}, key{"tun", load})
}

// units of the series that become figures, in this order.
var units = []struct{ load, unit string }{
	{"tcp1", "ns/KB"}, {"tcp1r", "ns/KB"}, {"tcp4", "ns/KB"}, {"tcp_mtu", "ns/KB"},
	{"tcp1_gbit", "Gbit/s"}, {"tcp1r_gbit", "Gbit/s"}, {"tcp4_gbit", "Gbit/s"}, {"tcp_mtu_gbit", "Gbit/s"},
	{"udp64", "us/packet"}, {"udp64_single", "us/packet"}, {"udp64_burst", "us/packet"}, {"one_address", "us/packet"}, {"one_mapping", "us/packet"},
	{"full_table", "us/packet"}, {"unscraped", "us/packet"}, {"scraped", "us/packet"}, {"scrapes", "count"}, {"look", "ms"},
	{"rtt_p10", "us"}, {"rtt_p50", "us"}, {"zero_loss", "packets/s"},
	{"web", "us/request"}, {"web_short", "us/request"}, {"web_long", "us/request"},
	{"web_short_rps", "requests/s"}, {"web_long_rps", "requests/s"},
	{"web_short_p50", "us"}, {"web_short_p99", "us"}, {"web_long_p50", "us"}, {"web_long_p99", "us"},
}

// compared are figures whose ratio to plain IPv6 is a figure, too.
var compared = []string{"web_short_rps", "web_long_rps", "web_short_p50", "web_short_p99", "web_long_p50", "web_long_p99", "zero_loss"}

// withDaemon are loads of which the translator's part of the cost is a figure.
var withDaemon = []string{"tcp1", "tcp1r", "tcp4", "tcp_mtu", "udp64", "udp64_single", "udp64_burst", "full_table", "scraped"}

func (r *report) figures() []figure {
	var out []figure
	add := func(name string, value float64, unit string) {
		if !math.IsNaN(value) {
			out = append(out, figure{name, value, unit})
		}
	}
	for _, u := range units {
		for _, path := range allPaths {
			if k := (key{path, u.load}); r.book.has(k) {
				add(k.String(), r.book.summary(k).Median, u.unit)
			}
			if k := (key{path, u.load + "_daemon"}); slices.Contains(withDaemon, u.load) && r.book.has(k) {
				add(k.String(), r.book.summary(k).Median, u.unit)
			}
		}
	}
	for _, path := range allPaths {
		if path == base {
			continue
		}
		for _, load := range compared {
			add(path+"."+load+"_ratio", r.book.ratio(key{path, load}, key{base, load}).Median, "ratio")
		}
		for _, load := range []string{"rtt_p10", "rtt_p50"} {
			add(path+"."+load+"_added", r.book.difference(key{path, load}, key{base, load}).Median, "us")
		}
	}
	for _, path := range allPaths {
		// ipv6 has no table: what it shows is noise, and with one address what many
		// addresses cost without a translator.
		add(path+".full_table_growth", r.book.ratio(key{path, "full_table"}, key{path, "one_mapping"}).Median, "ratio")
		add(path+".full_table_of_one_address", r.book.ratio(key{path, "full_table"}, key{path, "one_address"}).Median, "ratio")
		add(path+".scraped_growth", r.book.ratio(key{path, "scraped"}, key{path, "unscraped"}).Median, "ratio")
		if strings.HasPrefix(path, "fast") {
			// Without the daemon, which is not in the packets' way and spends its time on
			// writing the answers, as much a second however many packets there are.
			add(path+".scraped_path_growth", r.book.ratio(key{path, "scraped_path"}, key{path, "unscraped_path"}).Median, "ratio")
		}
	}
	for _, load := range ratioLoads {
		add("full."+load+"_of_tun", r.overTUN(load).Median, "ratio")
	}
	return append(out, r.extra...)
}

// short prints a number with as many digits as say something.
func short(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1000 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 100:
		return fmt.Sprintf("%.1f", v)
	case a >= .1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// bar is something that must hold.
type bar struct {
	What  string
	Limit float64
	Unit  string
	value func(r *report) summary
}

func ratioBar(path, load string, limit float64) bar {
	return bar{path + "." + load, limit, "x IPv6", func(r *report) summary { return r.ratio(path, load) }}
}

// bars are the limits that map646 is held to.
func bars() []bar {
	var out []bar
	for _, path := range []string{"fast", "fast66"} {
		for _, load := range []string{"tcp1", "tcp1r", "tcp4"} {
			out = append(out, ratioBar(path, load, 1.05))
		}
		out = append(out, ratioBar(path, "udp64", 1.08), bar{path + ".rtt_p10", 8, "us more than IPv6", func(r *report) summary {
			return r.book.difference(key{path, "rtt_p10"}, key{base, "rtt_p10"})
		}})
	}
	for _, path := range []string{"full", "full66"} {
		for _, load := range []string{"tcp1", "tcp1r", "tcp4"} {
			out = append(out, ratioBar(path, load, 1.5))
		}
	}
	growth := func(path, load, to string) bar {
		return bar{path + "." + load, 1.05, "x " + to, func(r *report) summary { return r.book.ratio(key{path, load}, key{path, to}) }}
	}
	return append(out, ratioBar("full", "tcp_mtu", 2),
		bar{"full.udp64", 1, "x TAYGA", func(r *report) summary { return r.book.ratio(key{"full", "udp64"}, key{"tayga", "udp64"}) }},
		growth("fast", "full_table", "one_mapping"),
		growth("fast", "scraped_path", "unscraped_path"), growth("full", "scraped", "unscraped"),
		bar{"table.load_seconds", 10, "s", func(r *report) summary { return r.extraValue("table.load_seconds") }})
}

func (r *report) extraValue(name string) summary {
	i := slices.IndexFunc(r.extra, func(f figure) bool { return f.Name == name })
	if i < 0 {
		return summary{}
	}
	v := r.extra[i].Value
	return summary{v, v, v, 1}
}

// verdicts are the bars that were measured, a row each.
func (r *report) verdicts() [][]string {
	var out [][]string
	for _, b := range bars() {
		s := b.value(r)
		if s.N == 0 {
			continue
		}
		verdict := "**missed**"
		if s.Median <= b.Limit {
			verdict = "held"
		}
		// One digit more, so that what has just missed does not look as if it held.
		measured := fmt.Sprintf("%.3f (%.3f–%.3f)", s.Median, s.Low, s.High)
		if s.N == 1 {
			measured = fmt.Sprintf("%.3f", s.Median)
		}
		out = append(out, []string{"`" + b.What + "`", "≤ " + short(b.Limit) + " " + b.Unit, measured, verdict})
	}
	return out
}

func spreadText(s summary) string {
	switch s.N {
	case 0:
		return ""
	case 1:
		return short(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", short(s.Median), short(s.Low), short(s.High))
}

// table is a Markdown table; the first column is text, the rest are numbers.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |\n|---%s|\n", strings.Join(head, " | "), strings.Repeat("|---:", len(head)-1))
	for _, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	return b.String()
}

// grid is a table of series: a row for each load, a column for each path.
func (r *report) grid(loads []string, cell func(path, load string) string) string {
	head := append([]string{""}, r.paths...)
	var rows [][]string
	for _, load := range loads {
		row := []string{"`" + load + "`"}
		for _, path := range r.paths {
			row = append(row, cell(path, load))
		}
		if strings.Join(row[1:], "") != "" {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return ""
	}
	return table(head, rows)
}

// seed is what the first map646's authors measured (means of five, 2011). Their
// fourth column was a NAT64 in the kernel.
const seed = `| 2011 | plain IPv4 | plain IPv6 | map646 | kernel NAT64 (Ecdysis) |
|---|---:|---:|---:|---:|
| RTT, laboratory, ms | 0.139 | 0.140 | 0.172 (+0.032) | 0.156 (+0.016) |
| TCP, laboratory, Mbit/s | 593.4 | 584.2 | 572.4 (582.4 beside the NAT64) | 706.4 |
| RTT, WIDE Cloud, ms | | 0.104 | 0.152 (+0.048) | |
| TCP, WIDE Cloud, Mbit/s | | 927 | 617 (-34 %) | |
`

// legend explains the paths and loads.
var legend = fmt.Sprintf(`- `+"`ipv6`, `ipv4`"+`: plain forwarding. `+"`fast`"+`: map646 with its eBPF program. `+"`stack`"+`: the same, but the kernel's stack sends on what
  that has translated (`+"`fast.forward`"+`). `+"`full`"+`: map646 by its TUN device alone. `+"`fast66`, `stack66`, `full66`"+`: the same, 1:1 between IPv6 addresses. `+"`tayga`"+`: TAYGA of Debian. `+"`tun`"+`: a TUN device like map646's, and a loop that puts IPv6 packets back as it
  read them, two system calls each, without the priority that map646 gives a reader of super-packets.
- `+"`tcp1`"+`: one stream to the server; `+"`tcp1r`"+`: from it; `+"`tcp4`"+`: four at once; writes of %d KB; paths take turns on connections that last for the round. `+"`tcp_mtu`"+`: one stream in frames of MTU size, GRO on at
  the translator's devices.
- `+"`udp64`"+`: datagrams of %d bytes, 10,000 a second, four at a time; `+"`udp64_single`"+`: one at a time (each wakes everybody on its way, which is dear
  without a translator, too); `+"`udp64_burst`"+`: 32 at a time (a translator's own share shows most). They are all of one flow, and those that wait together go through map646's
  full path as one super-packet; `+"`full_table`"+`'s and `+"`scraped`"+`'s are of many, and do not.
- `+"`web`"+`: wrk against a web server written in Go, page of 4 KB; mean of what a request costs on 16 connections of one request each and on 4 long ones.
`, chunk>>10, payload)

func (r *report) ratios() string {
	return r.grid(ratioLoads, func(path, load string) string {
		if path == base && r.book.has(key{path, load}) {
			return "1"
		}
		return spreadText(r.ratio(path, load))
	})
}

// brief is what goes between the marks of the translator's own page.
func (r *report) brief() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("CPU cost of the whole path (client, server, translator, kernel), × plain IPv6 forwarding, median of the rounds (quartiles). %s", r.about)
	p("Written by `make bench-map646 ARGS=\"-write docs\"`, %s; all figures, limits, and those of the first map646: [map646-bench.md](map646-bench.md).\n", r.ended)
	p("![cost of each path against plain IPv6 forwarding](map646-bench.svg)\n")
	p("%s", r.ratios())
	b.WriteString(legend)
	return b.String()
}

// marks enclose the brief in the translator's own page.
const openMark, closeMark = "<!-- bench -->\n", "<!-- /bench -->"

// inserted is a page with the brief between its marks.
func (r *report) inserted(page string) (string, error) {
	before, rest, ok := strings.Cut(page, openMark)
	if !ok {
		return "", fmt.Errorf("no mark %q", strings.TrimSpace(openMark))
	}
	_, after, ok := strings.Cut(rest, closeMark)
	if !ok {
		return "", fmt.Errorf("no mark %q", closeMark)
	}
	return before + openMark + r.brief() + closeMark + after, nil
}

// markdown is the page that a run writes.
func (r *report) markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# map646: what a packet costs\n")
	p("Written by `make bench-map646 ARGS=\"-write docs\"`, %s. %s\n", r.ended, r.about)
	p("![cost of each path against plain IPv6 forwarding](map646-bench.svg)\n")
	p("## CPU cost of the whole path, × plain IPv6 forwarding\n")
	p("Client, server, translator and the kernel's work for them: the CPU time of a cgroup around all three, and of ksoftirqd. Median of the rounds (quartiles).\n")
	p("%s", r.ratios())
	b.WriteString(legend)
	p("- `full_table`: %d mappings, addresses spread over them at random, half of the packets to and half from the mapped; `one_mapping`: the same packets, and one mapping", r.mapping)
	p("  of a prefix in the place of all; `one_address`: all packets to one address, with its one mapping (many addresses cost the hosts at both ends, too); `scraped`: `full_table` while")
	p("  `/metrics` is fetched ten times a second, in samples ten times as long; `unscraped`: these, without that (`scraped_path`, `unscraped_path`: without the daemon's own time, which is not in a fast packet's way).")
	p("  `look`: ms of CPU for looking through all mappings for the busiest, which happens every 15 s at most, and is not in these samples.\n")
	if v := r.verdicts(); len(v) > 0 {
		p("## What it must hold\n")
		p("%s", table([]string{"", "limit", "measured", ""}, v))
		p("Where the full path's limit is: each byte of TCP is copied twice more, out of the kernel and back (`tun_do_read`, `tun_get_user`), packets are routed twice,")
		p("and a small packet wakes one more process: a switch, and often another CPU's interrupt. The path `tun` pays just this and does nothing with a packet:")
		p("what the full path costs beyond it is map646's own. It costs less where its readers' priority for super-packets (`tun.bulk_nice`) helps.\n")
		var rows [][]string
		for _, load := range ratioLoads {
			if s := r.overTUN(load); s.N > 0 {
				rows = append(rows, []string{"`" + load + "`", spreadText(r.ratio("tun", load)), spreadText(r.ratio("full", load)), spreadText(s)})
			}
		}
		if len(rows) > 0 {
			p("%s", table([]string{"", "`tun`, × IPv6", "`full`, × IPv6", "`full`, × `tun`"}, rows))
		}
	}
	p("## In units\n")
	p("%s", r.grid(unitLoads(), func(path, load string) string {
		if !r.book.has(key{path, load}) {
			return ""
		}
		return short(r.book.summary(key{path, load}).Median)
	}))
	p("`tcp*`: ns of CPU per KB; `*_gbit`: Gbit/s; `udp64*`, `one_address`, `one_mapping`, `full_table`, `unscraped`, `scraped`: us of CPU per packet;")
	p("`rtt_*`: us, a UDP packet and its echo; `zero_loss`: packets/s, the highest rate without loss (RFC 8219 by bisection; trials of half a second at most, not a minute;")
	p("the generator itself is on the same CPUs); `web*`: us of CPU per request, `*_rps`: requests/s, `*_p50`, `*_p99`: latency in us.\n")
	if len(r.extra) > 0 {
		p("## The table, and the rest\n")
		var rows [][]string
		for _, f := range r.extra {
			rows = append(rows, []string{"`" + f.Name + "`", short(f.Value), f.Unit})
		}
		p("%s", table([]string{"", "", "unit"}, rows))
		p("`table.full_*` are those of the TUN device's table alone. `machine.outside_share` is what else went on in the machine meanwhile.\n")
	}
	p("## Beside the first map646\n")
	p("%s", seed)
	p("Of another time and other machines, where the wire was the limit; what compares is the difference to plain forwarding in the same row. The first one's CPU cost")
	p("was not published; its code, built today, cost 30 × plain IPv6 per KB of TCP and 1.35 × per small packet on a machine like this one.")
	return b.String()
}

func unitLoads() []string {
	var out []string
	for _, u := range units {
		if u.load != "scrapes" {
			out = append(out, u.load)
		}
	}
	return out
}
