package lab

import (
	"fmt"
	"os"
	"strings"
)

// Hints are commands for a person to play with the federation.
func (f *Federation) Hints() string {
	var b strings.Builder
	self := os.Args[0]
	fmt.Fprintf(&b, "\nThe federation is up. To play with it:\n")
	for _, s := range f.order {
		fmt.Fprintf(&b, "  # %s\n  ip netns exec %s env WCC_SERVER=http://%s WCC_TOKEN=%s %s vm list\n", s.stmt.Name, s.ctl.NSName(), apiAddress, s.token, self)
	}
	if f.dc != nil {
		for _, t := range f.dc.spec.Translators {
			fmt.Fprintf(&b, "  # translator %s\n  nsenter -t %d -a %s/map646 stats\n", t.Name, f.dc.translators[t.Name].PID(), nodeBin)
		}
	}
	fmt.Fprintf(&b, "  # clients in the Internet, IPv4 only and IPv6 only\n")
	fmt.Fprintf(&b, "  ip netns exec %s curl http://203.0.113.10/\n  ip netns exec %s curl 'http://[2001:db8:f::10]/'\n", f.client4.NSName(), f.client6.NSName())
	fmt.Fprintf(&b, "  # all machines: ip netns list; logs: %s\n", f.lab.o.LogDir)
	fmt.Fprintf(&b, "To take it down:\n")
	return b.String()
}
