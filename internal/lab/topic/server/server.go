package server

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/site"
)

// Topic is servers of Debian's.
func Topic() script.Topic {
	return script.Topic{
		Title: "Servers of Debian's",
		Intro: "Daemons as Debian's packages have them (`scripts/deps --test`), with our configuration, each on a machine at a site. " + reference() + ".",
		Statements: []script.Entry{
			{
				Form: "server NAME runs " + strings.Join(names(), "|") + " at SITE", Part: script.Declares,
				Doc: "it is up when its protocol was spoken with it. `kill`, `start`, `poweroff`, `poweron` and `cut` take it; what it keeps outlives " +
					"its power. Up to 13 at a site",
				Parse: parseServer,
			},
			{
				Form: "expect server NAME answers|silent|says \"TEXT\" [within TIME]", Part: script.Checks,
				Doc:   "its protocol is spoken with it, from the site's `user`; or cannot be; or what was seen, as the output has it, has the text",
				Parse: parseAnswers,
			},
		},
	}
}

// Server is a machine that runs a daemon.
type Server struct {
	name, runs string
	daemon     *daemon
	at         *site.Site
	leaf       *site.Leaf
}

// Name, and what a server can be.
func (s *Server) Name() string          { return s.name }
func (s *Server) Node() *machine.Node   { return s.leaf.Node() }
func (s *Server) RunsOn() *machine.Node { return s.leaf.Node() }
func (s *Server) Cut(heal bool) error   { return s.leaf.Node().CutLink("eth0", !heal) }
func (s *Server) Processes() (l []string) {
	for _, o := range s.daemon.processes(s) {
		l = append(l, o.Name)
	}
	return l
}

// servers are those of a script.
type servers struct{ all []*Server }

func parseServer(p *script.Parser) any {
	s := &Server{name: p.ShortName("server")}
	p.OneOf("runs")
	s.runs = p.OneOf(names()...)
	s.daemon = daemons[s.runs]
	p.OneOf("at")
	s.at = site.Ref(p)
	s.leaf = s.at.AddLeaf(p, s.name)
	all := script.Shared(p, func() *servers { return &servers{} })
	all.all = append(all.all, s)
	p.Declare(s.name, s)
	return nil
}

// Where a server keeps what it keeps.
const keeps = "/srv"

// Build implements stage.Builder.
func (l *servers) Build(ctx context.Context, st *stage.Stage, phase stage.Phase) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range l.all {
		switch phase {
		case stage.Prepare:
			g.Go(func() error { return s.find(st) })
		case stage.Start:
			g.Go(func() error {
				if err := s.start(ctx); err != nil {
					return fmt.Errorf("server %s: %w", s.name, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}

// find makes sure that the daemon's programs are here, and makes the directory for what
// it keeps: not an overlay, whose files some of them cannot use.
func (s *Server) find(st *stage.Stage) error {
	for _, program := range s.daemon.programs {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("server %s: %s is not here: %w; scripts/deps --test installs it", s.name, program, err)
		}
	}
	dir := filepath.Join(st.Lab.Dir(), "servers", s.name)
	s.leaf.Options.Share = map[string]string{dir: keeps}
	return os.MkdirAll(dir, 0o755)
}

// noNames is a resolver that is not there: who asks for a name is told so at once.
const noNames = "nameserver 127.0.0.1\n"

func (s *Server) start(ctx context.Context) error {
	if err := s.Node().WriteFile("/etc/resolv.conf", []byte(noNames)); err != nil {
		return err
	}
	if s.daemon.prepare != nil {
		if err := s.daemon.prepare(ctx, s); err != nil {
			return fmt.Errorf("prepare %s: %w", s.runs, err)
		}
	}
	processes := s.daemon.processes(s)
	for i, o := range processes {
		o.Boot = true
		if i == len(processes)-1 {
			o.Ready, o.ReadyTimeout = s.ready, s.daemon.patience
		}
		if _, err := s.Node().Start(o); err != nil {
			return err
		}
	}
	return nil
}

// ready brings a daemon that was started into service.
func (s *Server) ready(ctx context.Context) error {
	if s.daemon.configure != nil {
		if err := s.daemon.configure(ctx, s); err != nil {
			return err
		}
	}
	_, err := s.check(ctx)
	return err
}

func (s *Server) check(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.daemon.answer, answerTime))
	defer cancel()
	return s.daemon.check(ctx, s)
}

// addr6 and addr4 are the server's addresses.
func (s *Server) addr6() netip.Addr { return s.leaf.Addr6() }
func (s *Server) addr4() netip.Addr { return s.leaf.Addr4() }

// client runs a command on another machine of the site, and returns what it prints.
func (s *Server) client(ctx context.Context, name string, args ...string) (string, error) {
	return output(ctx, s.at.ClientNode(), name, args)
}

// run runs a command on the server itself, and returns what it prints.
func (s *Server) run(ctx context.Context, name string, args ...string) (string, error) {
	return output(ctx, s.Node(), name, args)
}

func output(ctx context.Context, n *machine.Node, name string, args []string) (string, error) {
	out, err := n.Command(ctx, name, args...).Output()
	return strings.TrimSpace(string(out)), err
}

// Answers expects a server to speak its protocol, or not to.
type Answers struct {
	Server *Server
	Silent bool
	Says   string // what was seen has this text
	Within time.Duration
}

func parseAnswers(p *script.Parser) any {
	a := &Answers{Server: script.Ref[*Server](p, "server of Debian's")}
	switch p.OneOf("answers", "silent", "says") {
	case "silent":
		a.Silent = true
	case "says":
		a.Says = p.Quoted()
	}
	a.Within = p.Within(startTime)
	return a
}

// Judge implements stage.Judge.
func (a *Answers) Judge(ctx context.Context, _ *stage.Stage) (detail string, err error) {
	start := time.Now()
	err = stage.Until(ctx, a.Within, func(ctx context.Context) (err error) { detail, err = a.judge(ctx); return err })
	return fmt.Sprintf("%s; after %.1f s", detail, time.Since(start).Seconds()), err
}

func (a *Answers) judge(ctx context.Context) (string, error) {
	seen, err := a.Server.check(ctx)
	switch {
	case a.Silent && err == nil:
		return "", fmt.Errorf("it answers: %s", seen)
	case a.Silent:
		return "no answer", nil
	case err == nil && !strings.Contains(seen, a.Says):
		return "", fmt.Errorf("seen: %s", seen)
	}
	return seen, err
}
