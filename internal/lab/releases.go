package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"widecloud/api"
)

// nodeReleases is where nodes have other releases' programs, a directory each.
const nodeReleases = "/opt/widecloud/releases"

// release is another release's programs, and what its controller is to be
// configured with.
type release struct {
	bin  string // directory on this machine; "": the programs that are tested
	plan bool   // it has an address plan
}

// ReleaseStmt is `release NAME COMMIT`.
type ReleaseStmt struct{ Name, Commit string }

// UpgradeStmt is `upgrade SITE controller|SITE/HOST agent`.
type UpgradeStmt struct{ Site, Host string }

func (p *parser) release() any {
	if p.script.DC != nil {
		p.fail(p.words[0], "releases differ in sites, not in a data centre")
	}
	r := &ReleaseStmt{Name: p.name("release", has(p.releases))}
	w := p.next("commit")
	r.Commit = w.text
	if w.quoted || len(r.Commit) < 7 || len(r.Commit) > 40 || strings.Trim(r.Commit, "0123456789abcdef") != "" {
		p.fail(w, "%q is not a commit: 7 to 40 hexadecimal digits", w.text)
	}
	p.releases[r.Name] = r
	p.script.Releases = append(p.script.Releases, r)
	return r
}

func (p *parser) upgrade() any {
	w := word{col: p.end}
	if p.more() {
		w = p.words[p.at]
	}
	u := &UpgradeStmt{}
	var process string
	u.Site, u.Host, process = p.process()
	s := p.sites[u.Site]
	switch {
	case process != controllerProcess && process != agentProcess:
		p.fail(w, "controllers and agents are upgraded, %s is not", process)
	case process == controllerProcess && s.Controller == "":
		p.fail(w, "the controller of %s is of this release already; its site statement could say: controller RELEASE", u.Site)
	case process == agentProcess && s.Agents == "":
		p.fail(w, "the agents of %s are of this release already; its site statement could say: agents RELEASE", u.Site)
	}
	return u
}

// buildReleases builds the script's releases from the history of the clone that
// the script is in.
func (f *Federation) buildReleases(ctx context.Context) error {
	for _, r := range f.o.Script.Releases {
		built, err := buildRelease(ctx, f.o.Source, r.Commit, filepath.Join(f.lab.Dir(), "releases", r.Name))
		if err != nil {
			return fmt.Errorf("release %s: %w", r.Name, err)
		}
		f.releases[r.Name] = built
	}
	return nil
}

func buildRelease(ctx context.Context, clone, commit, dir string) (r release, err error) {
	r.bin = filepath.Join(dir, "bin")
	src := filepath.Join(dir, "src")
	if err := errors.Join(os.MkdirAll(r.bin, 0o755), os.MkdirAll(src, 0o755)); err != nil {
		return r, err
	}
	defer os.RemoveAll(src)
	if err := unpackCommit(ctx, clone, commit, src); err != nil {
		return r, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", r.bin+"/", "./cmd/wcc", "./cmd/map646")
	build.Dir = src
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return r, fmt.Errorf("build commit %s: %w: %.2000s", commit, err, out)
	}
	_, err = os.Stat(filepath.Join(src, "internal", "config", "plan.go"))
	r.plan = err == nil
	return r, nil
}

// unpackCommit puts the files of a commit into a directory.
func unpackCommit(ctx context.Context, clone, commit, dir string) error {
	git := func(args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, "git", append([]string{"-C", clone}, args...)...)
	}
	top, err := git("rev-parse", "--show-toplevel").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s is not in a clone of the sources, which old releases are built from: %s", clone, strings.TrimSpace(string(top)))
	}
	if err := git("cat-file", "-e", commit+"^{commit}").Run(); err != nil {
		advice := "git fetch"
		if out, _ := git("rev-parse", "--is-shallow-repository").Output(); strings.TrimSpace(string(out)) == "true" {
			advice = "the clone has not the whole history; git fetch --unshallow"
		}
		return fmt.Errorf("commit %s is not in the clone: %s", commit, advice)
	}
	clone = strings.TrimSpace(string(top)) // an archive of a subdirectory has only that
	archive, unpack := git("archive", "--format=tar", commit), exec.CommandContext(ctx, "tar", "-x", "-C", dir)
	var said strings.Builder
	archive.Stderr, unpack.Stderr = &said, io.Discard
	if unpack.Stdin, err = archive.StdoutPipe(); err != nil {
		return err
	}
	if err := archive.Start(); err != nil {
		return fmt.Errorf("unpack commit %s: %w", commit, err)
	}
	err = unpack.Run()
	if err = errors.Join(err, archive.Wait()); err != nil {
		return fmt.Errorf("unpack commit %s: %w: %s", commit, err, said.String())
	}
	return nil
}

// share is what a machine of a release has beside the tested programs.
func (f *Federation) share(release string, base map[string]string) map[string]string {
	if release == "" {
		return base
	}
	out := map[string]string{f.releases[release].bin: nodeReleases + "/" + release}
	for outside, inside := range base {
		out[outside] = inside
	}
	return out
}

// program is the path of a release's program inside of nodes.
func program(release, name string) string {
	if release == "" {
		return nodeBin + "/" + name
	}
	return nodeReleases + "/" + release + "/" + name
}

// upgrade puts this release's controller or agent in the place of an old one,
// with the state that it has left.
func (f *Federation) upgrade(ctx context.Context, u *UpgradeStmt) error {
	s := f.sites[u.Site]
	if u.Host == "" {
		if err := s.ctl.Stop(controllerProcess); err != nil {
			return err
		}
		return f.startController(ctx, s, "")
	}
	if err := s.nodes[u.Host].Stop(agentProcess); err != nil {
		return err
	}
	// Not before its end is seen: what is waited for is the new one.
	err := until(ctx, agentTime, func(ctx context.Context) error {
		h, err := api.Get[api.Host](ctx, s.client, u.Host)
		if err == nil && h.Status.Connected {
			err = fmt.Errorf("host %s is still connected after its agent's end", u.Host)
		}
		return err
	})
	if err != nil {
		return err
	}
	return f.runAgent(ctx, s, u.Host, "")
}
