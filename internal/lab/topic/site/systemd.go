package site

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"widecloud/internal/lab/image"
	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

var systemdEntries = []script.Entry{
	{
		Form: "host HOST systemd", Part: script.Declares,
		Doc:   "the hypervisor or gateway is one of those ([below](#machines-with-systemd)), whatever its site's other machines are",
		Parse: parseHost,
	},
	{
		Form: "expect service MACHINE PROCESS [as USER] [within TIME]", Part: script.Checks,
		Doc: "on a machine with systemd: the unit is active, its main process is that user's, can gain no privileges, and has a filter of system calls. " +
			"SITE stands for its controller's machine, as in `kill`",
		Parse: parseService,
	},
}

func parseHost(p *script.Parser) any {
	w := p.Peek()
	h := script.Ref[*Host](p, "host")
	p.OneOf("systemd")
	if h.systemd {
		p.Fail(w, "%s has systemd already", h.Name())
	}
	h.systemd = true
	return nil
}

// setSystemd makes all machines of a site that run something of ours machines with systemd.
func (s *Site) setSystemd() {
	s.systemd = true
	for _, h := range s.all() {
		h.systemd = true
	}
}

// role is what the host's system is for.
func (h *Host) role() image.Role {
	if h.translator > 0 {
		return image.Gateway
	}
	return image.Hypervisor
}

// makeSystems makes the Debians of the machines with systemd.
func (f *Federation) makeSystems(ctx context.Context) error {
	var roles []image.Role
	for _, s := range f.Sites {
		if s.systemd {
			roles = append(roles, image.Controller)
		}
		for _, h := range s.all() {
			if h.systemd {
				roles = append(roles, h.role())
			}
		}
	}
	f.systems = map[image.Role]string{}
	for _, role := range roles {
		if f.systems[role] != "" {
			continue
		}
		dir, err := image.System(ctx, role)
		if err != nil {
			return err
		}
		f.systems[role] = dir
	}
	return nil
}

// Our services.
const (
	agentUnit      = "wcc-agent.service"
	controllerUnit = "wcc-serve.service"
)

// addController makes the user of the controller's service, as the README says.
func addController(ctx context.Context, n *machine.Node) error {
	out, err := n.Command(ctx, "sh", "-c", "id widecloud || useradd --system --home-dir "+stateDir+"/controller --shell /usr/sbin/nologin widecloud").CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the controller's user on %s: %w: %s", n.Name(), err, out)
	}
	return nil
}

// Service expects that systemd runs a service, as its unit says.
type Service struct {
	Runner  stage.Runner
	Process string
	User    string // "": whoever
	Within  time.Duration
}

func parseService(p *script.Parser) any {
	e := &Service{Runner: script.Ref[stage.Runner](p, "machine with processes")}
	e.Process = p.OneOf(e.Runner.Processes()...)
	if p.Is("as") {
		e.User = p.Next("user").Text
	}
	e.Within = p.Within(20 * time.Second)
	return e
}

// Judge implements stage.Judge.
func (e *Service) Judge(ctx context.Context, _ *stage.Stage) (line string, err error) {
	err = stage.Until(ctx, e.Within, func(ctx context.Context) error {
		s, err := e.Runner.RunsOn().Service(ctx, e.Process)
		if err != nil {
			return err
		}
		line = fmt.Sprintf("%s, process %s of %s, capabilities %s, no new privileges: %t, system calls filtered: %t",
			s.State, s.MainPID, s.User, s.Bounds, s.NoNewPrivs, s.SystemCalls)
		if s.State != "active" || e.User != "" && s.User != e.User || !s.NoNewPrivs || !s.SystemCalls {
			return errors.New(line)
		}
		return nil
	})
	return line, err
}

// UserOf is whose process runs a VM on a hypervisor.
func (f *Federation) UserOf(ctx context.Context, site, host, uid string) (string, error) {
	var n *machine.Host
	if s := f.Site(site); s != nil {
		n = s.Hypervisor(host)
	}
	if n == nil {
		return "", errors.New("no such hypervisor: " + site + "/" + host)
	}
	out, err := n.Command(ctx, "ps", "-e", "-o", "user:32=", "-o", "args=").Output()
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		if user, args, _ := strings.Cut(line, " "); strings.Contains(args, "qemu-system") && strings.Contains(args, uid) {
			return user, nil
		}
	}
	return "", fmt.Errorf("no QEMU of %s on %s/%s", uid, site, host)
}
