package objects

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"widecloud/api"
	"widecloud/internal/audit"
	"widecloud/internal/cloud"
	"widecloud/internal/doctor"
	"widecloud/internal/fed"
	"widecloud/internal/state"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// Site is a site as its controller has it. The packages of its nouns embed it.
type Site struct {
	Options
	Log *slog.Logger // with the site's name

	nouns  map[api.Kind]lived
	events atomic.Uint32 // counts them

	mu      sync.Mutex
	busy    map[string]bool // work that Once has under way
	changed chan struct{}   // closed and replaced at every change: whoever waits looks again
	work    sync.WaitGroup
	ctx     context.Context // of Start
}

// Options are what a site's controller is made of.
type Options struct {
	Name        string          // of the site
	State       *state.State    // of Tables; it is the federation's store, too
	Authority   *wire.Authority // the site's CA
	Federation  *fed.Federation
	Images      *volume.Store // the site's base images
	Network     wire.Network  // to invite and be invited by; nil: TCP
	Logger      *slog.Logger
	Audit       *audit.Log     // who did what; nil: it is not noted
	Endpoint    string         // host:port of the one outside port, as peers dial it
	Location    *api.Location  // of the site; nil: it does not say
	AnycastVTEP netip.Addr     // of the gateways
	Pref64      netip.Prefix   // IPv4 clients appear under it (RFC 6052)
	MTU         int            // of networks that do not say; default 1430
	Plan        cloud.Plan     // what networks and service addresses may be made of
	Underlay    []netip.Prefix // where the hosts' VTEPs are; empty: anywhere outside of the plan's pools
	Lease       time.Duration  // of offers that do not say; default 24 h
	Grace       time.Duration  // of offers that do not say; default 10 min
	JoinLife    time.Duration  // of join tokens and invitations; default 24 h
	FetchFrom   []netip.Prefix // of no global reach, that users' URLs may lead to all the same
	ImageKept   time.Duration  // a base image that nothing needs is removed after so long; default 24 h
	Codec       string         // of migrations' streams; default zstd
	MetricsVMs  int            // VMs that have series in the metrics, at most
	WatchKept   int            // changes in memory for watchers that come late, at least; default 4096

	Retry         time.Duration // between repetitions of a call that has to succeed; default 500 ms
	Resync        time.Duration // everything is looked at again so often; default 2 s
	ProgressEvery time.Duration // default 500 ms
	// Failpoint, when set, is called at each named point of a migration; tests kill the process there.
	Failpoint func(name string)
	// Machine, when set, tells what the controller's disks and certificates are like.
	Machine func() doctor.Machine
	// OnFirstLogin, when set, is called when the token that Bootstrap or Recover made was used, and is of no more use.
	OnFirstLogin func()
}

// New makes a site. What its options leave open gets its default.
func New(o Options) *Site {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.Lease, 24 * time.Hour}, {&o.Grace, 10 * time.Minute}, {&o.JoinLife, 24 * time.Hour}, {&o.ImageKept, 24 * time.Hour},
		{&o.Retry, 500 * time.Millisecond}, {&o.Resync, 2 * time.Second}, {&o.ProgressEvery, 500 * time.Millisecond},
	} {
		*d.v = cmp.Or(*d.v, d.def)
	}
	o.MTU = cmp.Or(o.MTU, 1430)
	o.Codec = cmp.Or(o.Codec, "zstd")
	o.WatchKept = cmp.Or(o.WatchKept, 4096)
	if o.Failpoint == nil {
		o.Failpoint = func(string) {}
	}
	return &Site{
		Options: o, Log: o.Logger.With("site", o.Name), nouns: map[api.Kind]lived{}, busy: map[string]bool{}, changed: make(chan struct{}),
	}
}

// Tables are the events and the answers of requests.
func Tables() state.Schema {
	return state.Schema{NounTable[api.Event](), RecordTable[answer](PrefixAnswers)}
}
