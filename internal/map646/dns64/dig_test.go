package dns64_test

import (
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"widecloud/internal/map646/dns64"
)

// TestDig has another DNS library's opinion.
func TestDig(t *testing.T) {
	var big strings.Builder
	for i := range 200 {
		big.WriteString("big.example. 300 A 192.0.2." + strconv.Itoa(i) + "\n")
	}
	r := startResolver(t, map[string]string{
		"www.example. A":              "www.example. 50 CNAME web.example.\nweb.example. 3600 A 192.0.2.33",
		"big.example. A":              big.String(),
		"1.2.0.192.in-addr.arpa. PTR": "1.2.0.192.in-addr.arpa. 77 PTR four.example.",
		"none.example. AAAA":          "NXDOMAIN",
		"bogus.example. AAAA":         "SERVFAIL\nbogus",
		"signed.example. A":           "signed.example. 300 A 192.0.2.33",
		"xn--bcher-kva.example. A":    "xn--bcher-kva.example. 300 A 192.0.2.33",
		"a\\ b\\.c\\200.example. A":   "a\\032b\\.c\\200.example. 300 A 192.0.2.33",
		"_sip._udp.example. SRV":      "_sip._udp.example. 300 SRV 1 2 5060 www.example.",
		"6.0.0.0.64.example. ":        "6.0.0.0.64.example. 300 TYPE65280 \\# 3 010203",
	})
	s := start(t, dns64.Options{Upstream: []netip.AddrPort{r.addr}})
	at := s.Addrs()[0]
	for _, c := range []struct {
		args string
		want []string // each somewhere in the output
		not  string
	}{
		{"+short www.example AAAA", []string{"web.example.\n2001:db8:64::c000:221"}, "192.0.2"},
		{"www.example AAAA", []string{"status: NOERROR", "flags: qr rd ra;", "QUERY: 1, ANSWER: 2", "udp: 1232"}, "WARN"},
		{"+noedns www.example AAAA", []string{"status: NOERROR", "ANSWER: 2"}, "EDNS:"},
		{"big.example AAAA", []string{"Truncated, retrying in TCP mode", "ANSWER: 200", "(TCP)"}, ""},
		{"+ignore +bufsize=512 big.example AAAA", []string{"flags: qr tc rd ra"}, ""},
		{"+tcp +keepopen www.example AAAA big.example AAAA", []string{"ANSWER: 2,", "ANSWER: 200,"}, ""},
		{"-x 2001:db8:64::192.0.2.1", []string{"1.2.0.192.in-addr.arpa.\t77", "PTR\tfour.example."}, ""},
		{"none.example AAAA", []string{"status: NXDOMAIN"}, ""},
		{"bogus.example AAAA", []string{"status: SERVFAIL", "EDE: 6"}, ""},
		{"+dnssec signed.example AAAA", []string{"flags: do", "2001:db8:64::c000:221"}, ""},
		{"+dnssec +cdflag signed.example AAAA", []string{"flags: qr rd ra cd", "ANSWER: 0"}, "c000:221"},
		{"+short ipv4only.arpa AAAA", []string{"2001:db8:64::c000:aa\n2001:db8:64::c000:ab"}, ""},
		{"+edns=1 +noednsneg www.example AAAA", []string{"status: BADVERS"}, ""},
		{"+cookie +subnet=192.0.2.0/24 +nsid www.example AAAA", []string{"ANSWER: 2"}, "COOKIE: "},
		{`a\032b\.c\200.example AAAA`, []string{"ANSWER: 1"}, ""},
		{"_sip._udp.example SRV", []string{"5060 www.example."}, ""},
		{"6.0.0.0.64.example TYPE65280", []string{`\# 3 010203`}, ""},
		{"version.bind TXT CH", []string{"status: NOERROR"}, ""},
		{"+opcode=NOTIFY www.example AAAA", []string{"status: NOTIMP"}, ""},
		{"www.example AXFR", []string{"Transfer failed"}, ""},
	} {
		args := append([]string{"@" + at.Addr().String(), "-p", strconv.Itoa(int(at.Port())), "+tries=1"}, strings.Fields(c.args)...)
		out, err := exec.Command("dig", args...).CombinedOutput()
		for _, w := range c.want {
			if !strings.Contains(string(out), w) {
				t.Errorf("dig %s (%v): no %q in\n%s", c.args, err, w, out)
			}
		}
		if c.not != "" && strings.Contains(string(out), c.not) {
			t.Errorf("dig %s: %q in\n%s", c.args, c.not, out)
		}
	}
}
