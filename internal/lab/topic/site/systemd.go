package site

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/packaging"
)

var hostEntry = script.Entry{
	Form: "host HOST systemd", Part: script.Declares,
	Doc: "the hypervisor is a Debian of its own that systemd has booted: libvirt as its package installs it, QEMU as libvirt's own user, the agent " +
		"as our unit. It takes minutes to make the first time ([below](#hosts-with-systemd))",
	Parse: parseHost,
}

func parseHost(p *script.Parser) any {
	w := p.Peek()
	h := script.Ref[*Host](p, "host")
	p.OneOf("systemd")
	switch {
	case h.translator > 0:
		p.Fail(w, "%s is a gateway; only hypervisors have systemd", h.Name())
	case h.systemd:
		p.Fail(w, "%s has systemd already", h.Name())
	}
	h.systemd = true
	return nil
}

// hasSystemd tells whether any host has.
func (f *Federation) hasSystemd() bool {
	for _, s := range f.Sites {
		for _, h := range s.hosts {
			if h.systemd {
				return true
			}
		}
	}
	return false
}

// agentUnit is the agent's service.
const agentUnit = "wcc-agent.service"

// startUnit does what the README says of a hypervisor: the program of a release to
// /usr/local/bin, the unit to /etc/systemd/system, and enabled.
func (h *Host) startUnit(ctx context.Context, release *Release) error {
	unit, err := packaging.Units.ReadFile(path.Join("systemd", agentUnit))
	if err != nil {
		return err
	}
	if err := h.node.WriteFile("/etc/systemd/system/"+agentUnit, unit); err != nil {
		return err
	}
	if out, err := h.node.Command(ctx, "install", release.program("wcc"), "/usr/local/bin/").CombinedOutput(); err != nil {
		return fmt.Errorf("install wcc on %s: %w: %s", h.Name(), err, out)
	}
	return h.node.StartService(ctx, agentProcess, agentUnit)
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
