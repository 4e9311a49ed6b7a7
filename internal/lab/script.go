package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"widecloud/api"
)

// Script is a lab script that has been understood as a whole: every name in it
// is declared before it is used, so nothing is built for a script with a slip.
type Script struct {
	File       string
	Releases   []*ReleaseStmt
	Sites      []*SiteStmt
	WANs       []*WANStmt
	DC         *DataCentre // nil: none; there are sites then
	Images     []string
	Statements []Statement // all of them, in order
}

// Statement is one line of a script.
type Statement struct {
	Pos  Pos
	Text string // as it stands in the file, without comment
	Do   any    // one of the *Stmt types
}

// Pos is a place in a script.
type Pos struct {
	File      string
	Line, Col int // from 1; Col counts bytes
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col) }

// ScriptError is a fault of a script.
type ScriptError struct {
	Pos Pos
	Msg string
}

func (e *ScriptError) Error() string { return e.Pos.String() + ": " + e.Msg }

// The statements. docs/lab.md says what each does.
type (
	// SiteStmt is `site NAME hosts N [gateway [path fast|full]] [lend … to SITE…|*] [grace D] [controller RELEASE] [agents RELEASE]`.
	SiteStmt struct {
		Name    string
		Hosts   int
		Gateway bool
		Path    string // of the gateway: fast or full
		Lend    *api.Resources
		Percent int // of the site's capacity, instead of Lend
		To      []string
		Grace   time.Duration
		// Controller and Agents are releases; "": the one that is tested.
		Controller, Agents string
	}
	// WANStmt is `wan A B rtt D rate R`.
	WANStmt struct {
		A, B string
		RTT  time.Duration
		Rate int64 // bits a second
	}
	// ImageStmt is `image tiny|debian`.
	ImageStmt struct{ Name string }
	// NetworkStmt is `network NAME owner SITE prefix P [ipv4 P]`.
	NetworkStmt struct {
		Name, Owner  string
		Prefix, IPv4 netip.Prefix
	}
	// VMStmt is `vm NAME owner SITE network NET [image I] [service A…] [at PLACE] [cpus N] [memory M] [user-data FILE]`.
	VMStmt struct {
		Name, Owner, Network, Image string
		Service                     []netip.Addr
		At                          string
		CPUs, MemoryMiB             int
		UserData                    string // a file beside the script
	}
	// BorrowStmt is `borrow SITE from SITE AMOUNT`.
	BorrowStmt struct {
		Borrower, Lender string
		Amount           api.Resources
	}
	// RevokeStmt is `revoke loan of LENDER to BORROWER` (also: reclaim).
	RevokeStmt struct{ Lender, Borrower string }
	// TrafficStmt is `traffic NAME FROM -> TARGET http every D | download rate R`.
	TrafficStmt struct {
		Name, From, Target string
		Every              time.Duration // http
		Rate               int64         // download: bytes a second
	}
	// MeasureStmt is `measure NAME…`: the figures of the traffic begin anew.
	MeasureStmt struct{ Names []string }
	// StopStmt is `stop traffic NAME`.
	StopStmt struct{ Traffic string }
	// PowerStmt is `stop|start|reboot|delete vm NAME`.
	PowerStmt struct{ VM, Verb string }
	// MigrateStmt is `migrate VM SITE[/HOST] [&]`.
	MigrateStmt struct {
		VM, To     string
		Background bool
	}
	// WaitStmt is `wait job VM [copied N%|step STEP] [within D]`.
	WaitStmt struct {
		VM      string
		Percent int    // of memory and disk; 0: not asked for
		Step    string // of the journal; "": the end
		Within  time.Duration
	}
	// CancelStmt is `cancel job VM`.
	CancelStmt struct{ VM string }
	// KillStmt is `kill SITE controller|SITE/HOST agent|map646|libvirtd [SIGNAL]`.
	KillStmt struct{ Site, Host, Process, Signal string }
	// StartStmt is `start SITE controller|SITE/HOST agent|map646|libvirtd`.
	StartStmt struct{ Site, Host, Process string }
	// PlugStmt is `poweroff|poweron SITE/HOST`.
	PlugStmt struct {
		Site, Host string
		On         bool
	}
	// CutStmt is `cut|heal A [B]`; without B: from all others and the Internet.
	CutStmt struct {
		A, B string
		Heal bool
	}
	// WriteStmt is `write VM SIZE`: the guest writes and syncs pseudo-random data.
	WriteStmt struct {
		VM  string
		MiB int
	}
	// DirtyStmt is `dirty VM SIZE rate R`: the guest writes its memory over and over.
	DirtyStmt struct {
		VM   string
		MiB  int
		Rate int64
	}
	// SayStmt is `say "TEXT"`.
	SayStmt struct{ Text string }
	// SleepStmt is `sleep D`.
	SleepStmt struct{ For time.Duration }
	// FigureStmt is `figure NAME WHAT OBJECT` or `ratio NAME WHAT OBJECT`.
	FigureStmt struct{ Name, What, Of string }
	// ExpectStmt is `expect …`; What says which.
	ExpectStmt struct {
		What    string // running, stopped, addresses, disk, boot, lost, gap, alive, job, page, loan, peer, refused, new network, new address; translator, map646, traceroute, pmtu, name
		VM      string
		At      string // place, "": anywhere; new: site
		Once    bool
		Address bool // unchanged since the VM was made
		Traffic string
		Limit   int64         // lost: at most; traceroute: hops; pmtu: bytes
		Unit    string        // lost: requests or bytes
		Under   time.Duration // gap
		Want    string        // job: done, clean, failed, cancelled; loan: active, reclaimed, ended; refused: reason's code; translator: idle, busy
		Target  string        // peer, page, traceroute, pmtu, name; translator, map646: which; new: the prefix or address
		From    string        // peer (whose), page, traceroute, pmtu, name
		Says    string        // page, map646: what the answer must have in it
		Path    string        // translator: fast, full, "": either
		Args    []string      // map646: command
		By      string        // traceroute: udp, icmp, tcp
		Silents int           // traceroute: hops that do not answer
		Through []netip.Addr  // traceroute: hops that must be among them; name: its address
		Silent  bool          // page: no answer is wanted
		Lender  string
		Within  time.Duration
	}
)

// statements maps each first word to its parser and its form, for messages.
var statements map[string]struct {
	form  string
	parse func(*parser) any
}

func init() { // not a literal: the parsers refer to the table in messages
	statements = map[string]struct {
		form  string
		parse func(*parser) any
	}{
		"release": {"release NAME COMMIT", (*parser).release},
		"upgrade": {"upgrade SITE controller | upgrade SITE/HOST agent", (*parser).upgrade},
		"site": {"site NAME hosts N [gateway [path fast|full]] [lend PERCENT%|AMOUNT to SITE…|*] [grace TIME] [controller RELEASE] [agents RELEASE]",
			(*parser).site},
		"wan":      {"wan SITE SITE rtt TIME rate RATE", (*parser).wan},
		"internet": {"internet", func(*parser) any { return nil }},
		"image":    {"image tiny|debian", (*parser).image},
		"network":  {"network NAME owner SITE prefix PREFIX [ipv4 PREFIX]", (*parser).network},
		"vm":       {"vm NAME owner SITE network NETWORK [image IMAGE] [service ADDRESS…] [at SITE[/HOST]] [cpus N] [memory SIZE] [user-data FILE]", (*parser).vm},
		"borrow":   {"borrow SITE from SITE AMOUNT", (*parser).borrow},
		"revoke":   {"revoke loan of LENDER to BORROWER", (*parser).revoke},
		"reclaim":  {"reclaim loan of LENDER to BORROWER", (*parser).revoke},
		"traffic":  {"traffic NAME inet4|inet6|SITE|SERVER -> VM|SERVER|NAME.example|ADDRESS http every TIME | download rate RATE", (*parser).flow},
		"measure":  {"measure TRAFFIC…|all", (*parser).measure},
		"stop":     {"stop traffic NAME | stop vm NAME | stop churn", (*parser).stop},
		"start":    {"start vm NAME | start SITE controller | start SITE/HOST agent|map646|libvirtd | start TRANSLATOR map646", (*parser).start},
		"reboot":   {"reboot vm NAME", (*parser).power},
		"delete":   {"delete vm NAME", (*parser).power},
		"migrate":  {"migrate VM SITE[/HOST] [&]", (*parser).migrate},
		"wait":     {"wait job VM [copied N%|step STEP] [within TIME]", (*parser).wait},
		"cancel":   {"cancel job VM", (*parser).cancel},
		"kill":     {"kill SITE controller [SIGNAL] | kill SITE/HOST agent|map646|libvirtd [SIGNAL] | kill TRANSLATOR map646 [SIGNAL]", (*parser).kill},
		"poweroff": {"poweroff SITE/HOST|TRANSLATOR|SERVER", (*parser).plug},
		"poweron":  {"poweron SITE/HOST|TRANSLATOR|SERVER", (*parser).plug},
		"cut":      {"cut SITE [SITE]", (*parser).cut},
		"heal":     {"heal SITE [SITE]", (*parser).cut},
		"write":    {"write VM SIZE", (*parser).write},
		"dirty":    {"dirty VM SIZE rate RATE", (*parser).dirty},
		"say":      {`say "TEXT"`, (*parser).say},
		"sleep":    {"sleep TIME", (*parser).sleep},
		"figure":   {"figure NAME gap|lost TRAFFIC | figure NAME seconds|wan_bytes|downtime VM | figure NAME elapsed", (*parser).figure},
		"ratio":    {"ratio NAME wire VM", (*parser).figure},
		"expect": {"expect VM running|stopped … | expect traffic … | expect job … | expect page … | expect loan … | expect peer … | expect new … | expect migrate … | " +
			"expect translator … | expect map646 … | expect traceroute … | expect pmtu … | expect name …", (*parser).expect},
		"routing":    {"routing ospf|bgp|static", (*parser).routing},
		"translator": {"translator NAME [path fast|full] [dns64] [inside-mtu N] [outside-mtu N] [tun-mtu N]", (*parser).translator},
		"server":     {"server NAME [at inet4|inet6] [service ADDRESS…] [mtu N]", (*parser).server},
		"fill":       {"fill N", (*parser).fill},
		"map":        {"map ADDRESS… to SERVER", (*parser).mapping},
		"unmap":      {"unmap ADDRESS…", (*parser).mapping},
		"map646":     {"map646 TRANSLATOR|all COMMAND…", (*parser).map646},
		"churn":      {"churn table|reload every TIME", (*parser).churn},
	}
}

// ParseScript understands a script, or returns every fault in it at once, each a
// *ScriptError, joined. It neither reads nor makes anything.
func ParseScript(file, text string) (*Script, error) {
	p := &parser{
		script: &Script{File: file}, releases: map[string]*ReleaseStmt{}, sites: map[string]*SiteStmt{}, networks: map[string]string{}, vms: map[string]*VMStmt{},
		images: map[string]bool{}, traffic: map[string]*TrafficStmt{}, wans: map[[2]string]bool{}, services: map[netip.Addr]string{},
		migrated: map[string]bool{}, loans: map[[2]string]bool{}, figures: map[string]bool{}, written: map[string]bool{},
	}
	var errs []error
	n := 0
	for line := range strings.Lines(text) {
		n++
		if err := p.line(n, strings.TrimRight(line, "\r\n")); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 && len(p.script.Sites) == 0 && (p.script.DC == nil || len(p.script.DC.Translators) == 0) {
		errs = append(errs, &ScriptError{Pos{file, max(n, 1), 1}, "a script needs a site or a translator"})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p.script, nil
}

// word is a token of a line.
type word struct {
	text   string
	col    int
	quoted bool
}

// parser goes through a script. A fault in a line ends that line by a panic with
// a *ScriptError, which line recovers: the statements' parsers stay readable.
type parser struct {
	script   *Script
	pos      Pos
	words    []word
	at       int // next word
	end      int // column behind the line
	releases map[string]*ReleaseStmt
	sites    map[string]*SiteStmt
	networks map[string]string // name -> owner
	vms      map[string]*VMStmt
	images   map[string]bool
	traffic  map[string]*TrafficStmt
	wans     map[[2]string]bool
	services map[netip.Addr]string
	migrated map[string]bool
	loans    map[[2]string]bool
	figures  map[string]bool
	written  map[string]bool
	churning bool
}

func (p *parser) line(n int, line string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			fault, ok := v.(*ScriptError)
			if !ok {
				panic(v)
			}
			err = fault
		}
	}()
	p.pos = Pos{p.script.File, n, 1}
	p.split(line)
	if len(p.words) == 0 {
		return nil
	}
	first := p.next("statement")
	s, ok := statements[first.text]
	if !ok {
		p.fail(first, "unknown statement %q; known: %s", first.text, known(statements))
	}
	do := s.parse(p)
	if p.at < len(p.words) {
		p.fail(p.words[p.at], "%q is more than %q takes; the form is: %s", p.words[p.at].text, first.text, s.form)
	}
	if do == nil {
		return nil
	}
	start, stop := first.col-1, p.end-1
	p.script.Statements = append(p.script.Statements, Statement{Pos{p.script.File, n, first.col}, strings.TrimSpace(line[start:stop]), do})
	return nil
}

// split makes words of a line. # begins a comment, at a word's beginning.
func (p *parser) split(line string) {
	p.words, p.at = nil, 0
	i := 0
	for i < len(line) {
		switch c := line[i]; {
		case c == ' ' || c == '\t':
			i++
		case c == '#':
			p.end = i + 1
			return
		case c == '"':
			j := strings.IndexByte(line[i+1:], '"')
			if j < 0 {
				p.fail(word{col: i + 1}, "the quotation has no end")
			}
			p.words = append(p.words, word{line[i+1 : i+1+j], i + 1, true})
			i += j + 2
		default:
			j := i
			for j < len(line) && line[j] != ' ' && line[j] != '\t' && line[j] != '"' {
				j++
			}
			p.words = append(p.words, word{line[i:j], i + 1, false})
			i = j
		}
	}
	p.end = len(line) + 1
}

func (p *parser) fail(w word, format string, args ...any) {
	pos := p.pos
	pos.Col = w.col
	panic(&ScriptError{pos, fmt.Sprintf(format, args...)})
}

// next takes a word; what names it for the message when there is none.
func (p *parser) next(what string) word {
	if p.at == len(p.words) {
		form := ""
		if s, ok := statements[p.words[0].text]; ok {
			form = "; the form is: " + s.form
		}
		p.fail(word{col: p.end}, "%s is missing%s", what, form)
	}
	p.at++
	return p.words[p.at-1]
}

func (p *parser) more() bool { return p.at < len(p.words) }

// is takes the next word if it is this one.
func (p *parser) is(text string) bool {
	if p.more() && !p.words[p.at].quoted && strings.TrimSuffix(p.words[p.at].text, ",") == text {
		p.at++
		return true
	}
	return false
}

// oneOf takes one of some words.
func (p *parser) oneOf(choices ...string) string {
	w := p.next(strings.Join(choices, " or "))
	text := strings.TrimSuffix(w.text, ",")
	if w.quoted || !slices.Contains(choices, text) {
		p.fail(w, "%q where %s is wanted", w.text, strings.Join(choices, " or "))
	}
	return text
}

// known lists the keys of a map.
func known[V any](m map[string]V) string {
	if len(m) == 0 {
		return "none so far"
	}
	l := make([]string, 0, len(m))
	for k := range m {
		l = append(l, k)
	}
	slices.Sort(l)
	return strings.Join(l, ", ")
}
