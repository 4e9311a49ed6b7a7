package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"widecloud/api"
	"widecloud/internal/lab/image"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// nodeReleases is where nodes have other releases' programs, a directory each.
const nodeReleases = "/opt/widecloud/releases"

// Release is another release of widecloud; nil is the one that is tested.
type Release struct {
	Name, Commit string

	bin  string // directory on this machine with its programs
	plan bool   // its controller has an address plan
}

// program is the path of a release's program inside of nodes.
func (r *Release) program(name string) string {
	if r == nil {
		return stage.NodeBin + "/" + name
	}
	return nodeReleases + "/" + r.Name + "/" + name
}

func (r *Release) hasPlan() bool { return r == nil || r.plan }

// share is what a machine of a release has beside the tested programs.
func share(r *Release, base map[string]string) map[string]string {
	if r == nil {
		return base
	}
	out := map[string]string{r.bin: nodeReleases + "/" + r.Name}
	for outside, inside := range base {
		out[outside] = inside
	}
	return out
}

func parseRelease(p *script.Parser) any {
	r := &Release{Name: p.NewName("release")}
	w := p.Next("commit")
	r.Commit = w.Text
	if w.Quoted || len(r.Commit) < 7 || len(r.Commit) > 40 || strings.Trim(r.Commit, "0123456789abcdef") != "" {
		p.Fail(w, "%q is not a commit: 7 to 40 hexadecimal digits", w.Text)
	}
	f := federation(p)
	f.Releases = append(f.Releases, r)
	p.Declare(r.Name, r)
	return nil
}

// Upgrade puts this release's controller or agent in the place of an old one, with
// the state that it has left.
type Upgrade struct {
	Site *Site // its controller; or
	Host *Host // its agent
}

func parseUpgradeController(p *script.Parser) any {
	w := p.Peek()
	s := ref(p)
	p.OneOf(controllerProcess)
	if s.Controller == nil {
		p.Fail(w, "the controller of %s is of this release already; its site statement could say: controller RELEASE", s.name)
	}
	return &Upgrade{Site: s}
}

func parseUpgradeAgent(p *script.Parser) any {
	w := p.Peek()
	h := script.Ref[*Host](p, "host")
	p.OneOf(agentProcess)
	if h.site.Agents == nil {
		p.Fail(w, "the agents of %s are of this release already; its site statement could say: agents RELEASE", h.site.name)
	}
	return &Upgrade{Host: h}
}

// buildReleases builds the script's releases from the history of the clone that
// the script is in.
func (f *Federation) buildReleases(ctx context.Context, s *stage.Stage) error {
	for _, r := range f.Releases {
		if err := r.build(ctx, s.Dir); err != nil {
			return fmt.Errorf("release %s: %w", r.Name, err)
		}
	}
	return nil
}

// build builds the release's programs, or takes them from the cache: a commit is
// always the same.
func (r *Release) build(ctx context.Context, clone string) error {
	dir, err := image.Cached(ctx, "releases", image.Key(r.Commit, buildFlags, runtime.Version()), func(ctx context.Context, dir string) error {
		return buildCommit(ctx, clone, r.Commit, dir)
	})
	if err != nil {
		return err
	}
	r.bin = filepath.Join(dir, "bin")
	_, err = os.Stat(filepath.Join(dir, "plan"))
	r.plan = err == nil
	return nil
}

const buildFlags = "-trimpath -buildvcs=false -ldflags=-s"

// buildCommit leaves a commit's programs in bin, and a file plan if it has address plans.
func buildCommit(ctx context.Context, clone, commit, dir string) error {
	bin, src := filepath.Join(dir, "bin"), filepath.Join(dir, "src")
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.MkdirAll(src, 0o755)); err != nil {
		return err
	}
	if err := UnpackCommit(ctx, clone, commit, src); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", append(append([]string{"build"}, strings.Fields(buildFlags)...), "-o", bin+"/", "./cmd/wcc", "./cmd/map646")...)
	build.Dir = src
	build.Env = image.Environ("CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build commit %s: %w: %.2000s", commit, err, out)
	}
	if _, err := os.Stat(filepath.Join(src, "internal", "config", "plan.go")); err == nil {
		if err := os.WriteFile(filepath.Join(dir, "plan"), nil, 0o644); err != nil {
			return err
		}
	}
	return os.RemoveAll(src)
}

// UnpackCommit puts the files of a commit into a directory.
func UnpackCommit(ctx context.Context, clone, commit, dir string) error {
	git := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", clone}, args...)...)
		cmd.Env = image.Environ()
		return cmd
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
	unpack.Env = image.Environ()
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

// Do implements stage.Doer.
func (u *Upgrade) Do(ctx context.Context, st *stage.Stage) error {
	if s := u.Site; s != nil {
		if err := s.ctl.Stop(controllerProcess); err != nil {
			return err
		}
		return Of(st.Script).startController(ctx, s, nil)
	}
	h := u.Host
	if err := h.node.Stop(agentProcess); err != nil {
		return err
	}
	// Not before its end is seen: what is waited for is the new one.
	err := stage.Until(ctx, agentTime, func(ctx context.Context) error {
		seen, err := api.Get[api.Host](ctx, h.site.client, h.name)
		if err == nil && seen.Status.Connected {
			err = fmt.Errorf("host %s is still connected after its agent's end", h.name)
		}
		return err
	})
	if err != nil {
		return err
	}
	return h.runAgent(ctx, nil)
}
