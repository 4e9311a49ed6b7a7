package flow

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Traceroute expects what is on the way to a target.
type Traceroute struct {
	From    stage.Client
	Host    string
	Hops    int
	Silent  int    // hops that do not answer
	By      string // udp, icmp, tcp
	Through []netip.Addr
	Within  time.Duration
}

func parseTraceroute(p *script.Parser) any {
	e := &Traceroute{By: "udp", Within: 20 * time.Second}
	e.From, e.Host = stage.Between(p)
	p.OneOf("hops")
	e.Hops = p.Number("number of hops", 1, 30)
	for p.More() {
		switch p.OneOf("by", "silent", "through", "within") {
		case "within":
			e.Within = p.Duration(time.Hour)
		case "silent":
			e.Silent = p.Number("number of hops", 1, 30)
		case "by":
			e.By = p.OneOf("udp", "icmp", "tcp")
		case "through":
			e.Through = append(e.Through, p.Addr())
		}
	}
	return e
}

// PMTU expects the MTU of the path to a target.
type PMTU struct {
	From stage.Client
	Host string
	MTU  int // bytes
}

func parsePMTU(p *script.Parser) any {
	e := &PMTU{}
	e.From, e.Host = stage.Between(p)
	p.OneOf("is")
	e.MTU = p.Number("MTU", 68, 65535)
	return e
}

// hopRE is a line of traceroute -n -q 1: number, then address and time, or *.
var hopRE = regexp.MustCompile(`(?m)^ *(\d+) +(\*|[0-9a-f.:]+)`)

// Judge implements stage.Judge. It follows the path by Debian's traceroute: each hop must answer,
// and the last must be the target. More than once if need be: with one process
// id in fifty or so it overlooks ICMPv6 answers that are there, and kernels limit
// the rate of their errors.
func (e *Traceroute) Judge(ctx context.Context, _ *stage.Stage) (path string, err error) {
	err = stage.Until(ctx, e.Within, func(ctx context.Context) (err error) { path, err = e.follow(ctx); return err })
	return path, err
}

func (e *Traceroute) follow(ctx context.Context) (string, error) {
	args := []string{"-n", "-q", "1", "-N", "1", "-w", "1", "-m", strconv.Itoa(e.Hops + 2)}
	switch e.By {
	case "icmp":
		args = append(args, "-I")
	case "tcp":
		args = append(args, "-T", "-p", "80")
	}
	out, err := e.From.ClientNode().Command(ctx, "traceroute", append(args, e.Host)...).Output()
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
	case silent != e.Silent:
		return "", fmt.Errorf("%d hops do not answer: %s", silent, path)
	case len(hops) == 0 || hops[len(hops)-1] != e.Host:
		return "", fmt.Errorf("the path does not end at %s: %s", e.Host, path)
	case len(hops) != e.Hops:
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

// Judge implements stage.Judge. It finds the path's MTU by Debian's tracepath, and then sees by ping that
// a packet of this size, which must not be cut, is answered; and that the kernel
// has learned it: it refuses to send one that is a byte bigger.
func (e *PMTU) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	n := e.From.ClientNode()
	out, err := n.Command(ctx, "tracepath", "-n", "-m", "15", e.Host).Output()
	if err != nil {
		return "", err
	}
	found := pmtuRE.FindStringSubmatch(string(out))
	if found == nil || found[1] != strconv.Itoa(e.MTU) {
		return "", fmt.Errorf("tracepath says: %s", strings.Join(strings.Fields(string(out)), " "))
	}
	header := 20 + 8
	if strings.Contains(e.Host, ":") {
		header = 40 + 8
	}
	ping := func(size int) (string, error) {
		out, err := n.Command(ctx, "ping", "-n", "-c", "1", "-W", "3", "-M", "do", "-s", strconv.Itoa(size-header), e.Host).CombinedOutput()
		return string(out), err
	}
	if text, err := ping(e.MTU); err != nil {
		return "", fmt.Errorf("ping of %d bytes: %w: %s", e.MTU, err, strings.TrimSpace(text))
	}
	text, err := ping(e.MTU + 1)
	if m := pingRE.FindStringSubmatch(text); err == nil || m == nil || m[1] != found[1] {
		return "", fmt.Errorf("ping of %d bytes is not refused: %s", e.MTU+1, strings.TrimSpace(text))
	}
	return "tracepath and ping agree on " + found[1], nil
}
