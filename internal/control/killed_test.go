package control_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"widecloud/api"
)

// The points of a migration at which a process may die. Those of the coordinator are the steps of its journal, each
// struck when it is on stable storage and nothing that follows from it has been done.
var points = map[string][]string{
	"coordinator": {
		"coordinator.none", "coordinator.checked", "coordinator.reserved", "coordinator.prepared", "coordinator.copying",
		"coordinator.copied", "coordinator.committed", "coordinator.switched",
	},
	"source agent":      {"source.begin", "source.copying", "source.copied", "source.confirmed"},
	"target agent":      {"target.reserved", "target.prepared", "target.committed", "target.switched"},
	"target controller": {"target-controller.finished"},
	"source controller": {"source-controller.confirmed"},
}

// TestKilled kills, with -9, each of the processes of a migration at each point of each of them, in every direction.
func TestKilled(t *testing.T) { killedEverywhere(t, api.PowerOn) }

// TestKilledStopped is TestKilled with a stopped VM. What is on its disk goes with it.
func TestKilledStopped(t *testing.T) { killedEverywhere(t, api.PowerOff) }

// TestKilledHibernated is TestKilled with a hibernated VM. Its memory goes with its disk.
func TestKilledHibernated(t *testing.T) { killedEverywhere(t, api.PowerHibernated) }

func killedEverywhere(t *testing.T, power api.Power) {
	for _, way := range []struct {
		name, source, target string
		victims              []string
	}{
		{"home to lender", "tokyo", "osaka", []string{"source controller", "target controller", "source agent", "target agent"}},
		{"lender to home", "osaka", "tokyo", []string{"source controller", "target controller", "source agent", "target agent"}},
		{"lender to lender", "osaka", "kyoto", []string{"source controller", "target controller", "coordinator", "source agent", "target agent"}},
		{"home to home", "tokyo/h1", "tokyo/h2", []string{"coordinator", "source agent", "target agent"}},
		{"within a lender", "osaka/h1", "osaka/h2", []string{"source controller", "source agent", "target agent"}},
	} {
		for _, victim := range way.victims {
			t.Run(way.name+"/"+victim, func(t *testing.T) {
				t.Parallel()
				federation(t, options{sites: []string{"tokyo", "osaka", "kyoto"}, hosts: 2, copyTime: 5 * time.Millisecond}, func(t *testing.T, w *world) {
					w.lend("osaka", "tokyo", room())
					w.lend("kyoto", "tokyo", room())
					w.sites["tokyo"].ready("2001:db8:a::/64")
					tokyo := w.sites["tokyo"]
					tokyo.newVM("web1", way.source)
					tokyo.runs("web1")
					disk := tokyo.rests("web1", power)
					for _, at := range []string{"coordinator", "source agent", "target agent", "target controller", "source controller"} {
						for _, point := range points[at] {
							w.killedAt(way.source, way.target, victim, at, point)
							if now := tokyo.onDisk("web1"); power != api.PowerOn && now != disk {
								t.Errorf("%s killed at %s: the disk is at %d, was at %d", victim, point, now, disk)
							}
							if t.Failed() {
								return
							}
						}
					}
				})
			})
		}
	}
}

// killedAt migrates, kills the victim where another process (or it itself) comes to a point, restarts it, and looks
// whether all is as it should be.
func (w *world) killedAt(source, target, victim, at, point string) {
	w.t.Helper()
	tokyo := w.sites["tokyo"]
	what := fmt.Sprintf("%s killed at %s", victim, point)
	v := tokyo.vm("web1")
	from := w.sites[v.Status.Site].hosts[v.Status.Host]
	// A target with one candidate host, so that it is known before.
	var to *host
	for _, h := range w.hosts() {
		if h != from && (h.site.name == target || h.site.name+"/"+h.name == target) {
			to = h
			break
		}
	}
	target = to.site.name + "/" + to.name
	kill := map[string]func(){
		"coordinator": tokyo.die, "source controller": from.site.die, "target controller": to.site.die,
		"source agent": from.die, "target agent": to.die,
	}[victim]
	node := map[string]string{
		"coordinator": "tokyo", "source controller": from.site.name, "target controller": to.site.name,
		"source agent": from.node(), "target agent": to.node(),
	}[at]
	var struck atomic.Bool
	w.at(node, point, func() { struck.Store(true); kill() })
	j := tokyo.migrate("web1", target)
	for i := 0; i < 100 && !struck.Load(); i++ {
		time.Sleep(20 * time.Millisecond)
		if o, err := tokyo.ctl.Get(w.t.Context(), tokyo.admin, api.KindJob, j.Name); err == nil && o.(*api.Job).Status.State.Ended() {
			break
		}
	}
	if !struck.Load() {
		w.t.Errorf("%s: the point was not reached\n%s", what, w.state())
		return
	}
	time.Sleep(time.Second)
	w.restartDead()
	tokyo.ended(j.Name)
	state := tokyo.job(j.Name).Status.State
	defer func() {
		if w.t.Failed() {
			w.t.Logf("%s: job %s was %s", what, j.Name, state)
		}
	}()
	tokyo.runs("web1")
	if state == api.JobDone != (tokyo.vm("web1").Status.Host == to.name && tokyo.vm("web1").Status.Site == to.site.name) {
		w.t.Errorf("%s: the job is %s and the VM at %s/%s", what, state, tokyo.vm("web1").Status.Site, tokyo.vm("web1").Status.Host)
	}
	w.lawful()
	w.connected()
	// A new one works at once, there and back.
	if state != api.JobDone {
		tokyo.moved("web1", target)
	}
	tokyo.moved("web1", from.site.name+"/"+from.name)
}

// die is kill -9 by one of its own goroutines: nobody waits.
func (s *site) die() {
	if s.proc != nil {
		s.proc.kill()
	}
}

func (h *host) die() {
	if h.proc != nil {
		h.proc.kill()
	}
}

// restartDead starts every process anew that was killed.
func (w *world) restartDead() {
	for _, s := range w.sites {
		if s.proc != nil && s.proc.dead.Load() {
			s.kill()
			s.start()
		}
	}
	for _, h := range w.hosts() {
		if h.proc != nil && h.proc.dead.Load() {
			h.kill()
			h.start()
		}
	}
	w.connected()
}
