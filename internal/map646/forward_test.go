package map646_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/map646"
)

// TestForwarding: the fast path sends on by itself what it translates while nothing
// in the kernel would look at it, and leaves it to the kernel as soon as something
// would. Streams go on.
func TestForwarding(t *testing.T) {
	w := small(t)
	fast := withFast(conf, bpffs(t)+"/p")
	_, path, socket := w.translator("gw", fast)
	forwarding := func(want bool, hooks ...string) {
		t.Helper()
		w.until("forwarding", 5*time.Second, func() bool {
			s := w.stats(socket)
			return s.Fast.Direct == want && cmp.Equal(s.Fast.Hooks, hooks)
		})
	}
	forwarding(true)
	end := w.streams()
	// What a chain of forwarded packets counts.
	counted := func() (n int) {
		out := w.run("gw", "nft", "list", "chain", "inet", "fw", "f")
		_, out, _ = strings.Cut(out, "counter packets ")
		n, err := strconv.Atoi(strings.Fields(out)[0])
		w.must(err)
		return n
	}
	const table = "table inet fw { chain f { type filter hook forward priority 0; tcp sport 9090 counter; }; }"
	doctor := func(level, text string) {
		t.Helper()
		findings, err := map646.Doctor(t.Context(), map646.DoctorOptions{ConfigPath: path, NS: w.ns["gw"]})
		if err != nil || !found(findings, level, "fast.forward", text) {
			t.Errorf("doctor: want %s, %q, got %+v, %v", level, text, findings, err)
		}
	}
	doctor(map646.FindOK, "auto")
	w.run("gw", "nft", table)
	forwarding(false, "nftables chain inet fw f")
	doctor(map646.FindOK, "auto: the kernel sends on what is translated, for there are nftables chain inet fw f")
	w.until("packets in the chain", 5*time.Second, func() bool { return counted() > 0 })
	// By configuration, whatever there is.
	configured := func(how string, hooks ...string) {
		t.Helper()
		w.config(path, strings.Replace(fast, "[fast]", "[fast]\nforward = \""+how+"\"", 1), socket)
		var s map646.Stats
		w.must(w.ask(socket, "reload", "", &s))
		if s.Fast.Direct != (how == "direct") || !cmp.Equal(s.Fast.Hooks, hooks) {
			t.Errorf("%s: %+v", how, s.Fast)
		}
	}
	configured("direct")
	doctor(map646.FindWarn, "direct: translated packets do not pass nftables chain inet fw f")
	time.Sleep(100 * time.Millisecond) // what was on its way
	before := counted()
	time.Sleep(300 * time.Millisecond)
	if n := counted() - before; n != 0 {
		t.Errorf("direct: %d packets in the chain", n)
	}
	configured("kernel")
	w.until("packets in the chain, again", 5*time.Second, func() bool { return counted() > before })
	configured("auto", "nftables chain inet fw f")
	w.run("gw", "nft", "delete", "table", "inet", "fw")
	forwarding(true)
	w.run("gw", "ip", "-6", "rule", "add", "from", "2001:db8:9::/64", "lookup", "100", "priority", "99")
	forwarding(false, "IPv6 rule 99")
	w.run("gw", "ip", "-6", "rule", "del", "priority", "99")
	forwarding(true)
	// Of this the kernel does not notify.
	w.run("gw", "iptables-legacy", "-t", "mangle", "-L")
	forwarding(false, "ip_tables mangle")
	end()
}
