// Package hyper is the seam between an agent and the hypervisor of its host. Package hyper/libvirt drives the real one,
// package hyper/fake a simulated one for scale and fault schedules; both pass the conformance suite in hyper/hypertest.
//
// Domains are transient: the hypervisor remembers nothing that the agent does not order, so a host that lost its power
// comes back empty and the agent, which persisted its orders and epochs, decides what may run.
//
// A live migration is a two-phase commit. The caller moves it on, on both ends:
//
//	source                     target
//	MigrateBegin  -> offer
//	                           MigratePrepare(offer) -> answer     (an incoming domain waits, paused)
//	MigratePerform(answer)     MigrateConnect: far ends of streams (memory, disk)
//	  -> result                                                    (source is paused, target holds everything, paused)
//	        the caller decides: commit or abort, durably
//	                           MigrateFinish(result, commit)       (commit: runs; abort: is destroyed)
//	MigrateConfirm(commit)                                         (commit: is destroyed; abort: runs on)
//
// Invariants:
//   - a Driver never starts or resumes a domain unless it was told to for that very VM;
//   - after MigratePerform returned nil neither end runs, and each end keeps its copy until Finish or Confirm;
//   - a MigratePerform that returned an error leaves the source running (or reports ErrParted when it cannot tell);
//   - an agent that dies before MigrateFinish leaves no domain at the target once its driver's connection is gone.
package hyper

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"widecloud/api"
)

// The errors that callers tell apart.
var (
	ErrNotFound    = errors.New("no such domain")
	ErrExists      = errors.New("domain exists")
	ErrUnreachable = errors.New("hypervisor is not reached")
	ErrNoSpace     = errors.New("no space left for the disk")
	ErrCancelled   = errors.New("migration was cancelled")
	// ErrState: the domain is there, but in a state in which the call makes no sense (Resume of an incoming domain, Confirm
	// with commit of a running one). Nothing was changed.
	ErrState = errors.New("domain is in another state")
	// ErrNoDisplay: the domain's hardware profile has none.
	ErrNoDisplay = errors.New("the domain has no display")
	// ErrNoPlug: the domain's hardware profile has no ports into which disks are plugged while it runs.
	ErrNoPlug = errors.New("disks cannot be plugged into the domain while it runs")
	// ErrTorn: a file is not, or not in whole, what Save writes.
	ErrTorn = errors.New("not a whole saved domain")
	// ErrParted: the memory stream ended in a way that leaves the source paused and the other end unknown.
	ErrParted = errors.New("migration ended in doubt")
)

// Spec is a domain as it is wanted; plain data.
type Spec struct {
	VM           string // UID: the domain's UUID
	Name         string // a label for people; the domain's name is made unique by the driver
	Epoch        uint64 // kept in the domain's metadata, so that a restarted agent can read it back
	api.Hardware        // an empty CPUModel: the driver's baseline
	Disks        []Disk
	NICs         []NIC
}

// Disk is a file that the guest sees as a virtio disk.
type Disk struct {
	Target string // vda, vdb: says where in the machine it is; see Target and SeedTarget
	Serial string // that the guest reads, at most 20 letters, digits, '-' and '_'; empty: none
	Path   string // absolute, on this host
	Format string // qcow2 or raw
	Base   string // backing file, absolute, or empty; it has no backing file of its own
	// BaseFormat is qcow2 or raw; empty: the driver looks at the base.
	BaseFormat string
	ReadOnly   bool // the cloud-init seed: present at both ends, never copied
}

// NIC is a virtio network card plugged into a bridge of the host.
type NIC struct {
	Bridge string
	MAC    string
	MTU    int
}

// State is what a domain is doing.
type State string

// The states of a domain.
const (
	Running   State = "running"
	Paused    State = "paused"    // by a migration, on either end; while it is saved; when it was restored
	Suspended State = "suspended" // by Suspend
	Incoming  State = "incoming"  // target of a migration that is not finished
	Stopped   State = "stopped"   // only seen in events: a transient domain that stopped is gone
)

// Domain is a domain as it is seen.
type Domain struct {
	VM        string
	Name      string
	Epoch     uint64
	State     State
	MemoryMiB int
	CPUs      int
	Migrating bool // an outgoing migration is active, or it is being saved or restored
	// Disks are the targets of its writable disks, sorted. One that was to be detached is among them until its guest has let it go.
	Disks []string
}

// Usage is what a domain has used on this host since it runs here.
type Usage struct {
	VM                    string
	CPU                   time.Duration // of its virtual CPUs and what serves them
	Memory                int64         // bytes of the host's memory that it holds now
	DiskRead, DiskWritten int64         // bytes, of all its disks
	Reads, Writes         int64         // requests, of all its disks
	Received, Sent        int64         // bytes, of all its network cards, as the guest sees them
}

// Capabilities is what the host can run.
type Capabilities struct {
	Hypervisor string // "qemu 7.2.0 (tcg)"
	Arch       string
	Accel      string // kvm or tcg, chosen by trying
	AccelWhy   string // why not kvm, when tcg
	CPUModel   string
	CPUUsable  []string
	Profile    int // newest hardware profile (api.Hardware) that the driver makes
	CPUs       int
	MemoryMiB  int
}

// Event tells of a domain's change; Lost means that events may have been missed and that the caller lists again.
type Event struct {
	VM    string
	State State
	Lost  bool
}

// Progress of an outgoing migration, bytes and bytes per second.
type Progress struct {
	MemoryDone, MemoryTotal int64
	DiskDone, DiskTotal     int64
	DirtyRate               float64
	Downtime                time.Duration // expected, then measured
	Switching               bool
}

// Channel names a stream of a migration.
type Channel string

// The streams of a migration.
const (
	Memory  Channel = "memory"
	Storage Channel = "disk"
)

// Outgoing is what the source needs for MigratePerform.
type Outgoing struct {
	Answer    []byte                                                 // from MigratePrepare at the target
	Dial      func(ctx context.Context, c Channel) (net.Conn, error) // opens the way to the target's MigrateConnect
	Bandwidth int64                                                  // bytes per second, 0: no limit
	Downtime  time.Duration                                          // wanted at most; 0: the driver's default
}

// Driver is a hypervisor. Calls are safe for concurrent use; calls for one VM are made one after another, but for
// MigrateProgress, MigrateCancel and MigrateConnect, which come while MigratePerform is at work. Every call but
// MigratePerform, Save and Restore returns within its context's time.
type Driver interface {
	Capabilities(ctx context.Context) (Capabilities, error)
	// Domains lists the domains that this driver made and that exist now.
	Domains(ctx context.Context) ([]Domain, error)
	// Start makes and runs a domain. ErrExists: there is one of that VM already, whatever its epoch.
	Start(ctx context.Context, s Spec) error
	// Shutdown asks the guest to stop (ACPI). It does not wait.
	Shutdown(ctx context.Context, vm string) error
	// Reboot asks the guest to reboot (ACPI), hard: resets it at once.
	Reboot(ctx context.Context, vm string, hard bool) error
	// Destroy ends a domain at once; nil when there is none.
	Destroy(ctx context.Context, vm string) error
	// Suspend makes a domain that runs stand still, with its memory where it is, until Resume; nil when it does already. It outlives
	// agent and daemon. ErrState: it is in another state.
	Suspend(ctx context.Context, vm string) error
	// Resume lets a domain run that is suspended, or that a migration left paused (an aborted one whose agent died). Only for the copy
	// that may run. nil when it runs already, ErrState for an incoming domain.
	Resume(ctx context.Context, vm string) error
	// Save writes a domain that runs, is suspended or paused to a file, and ends it: its memory and its devices. Its disks have all that
	// its guest has written. The file is whole when Save has returned nil. When it returns an error the domain goes on as it was, and
	// the file is worth nothing; but with ErrUnreachable it may still end that way, or the other one. It takes as long as it
	// takes: its context alone ends it.
	Save(ctx context.Context, vm, path string) error
	// Saved tells whether a file is one that Save has written in whole: nil, ErrNotFound or ErrTorn.
	Saved(ctx context.Context, vm, path string) error
	// Restore makes a paused domain of what Save has written to a file: nothing of its guest runs before Resume. The spec is of the
	// same machine, and names its disks and bridges on this host. The file stays. ErrExists; ErrNotFound, ErrTorn: as Saved. As Save,
	// it takes its time.
	Restore(ctx context.Context, s Spec, path string) error
	// ReadSaved reads the head of a file that Save has written. What follows it, from there on, is what another host needs of it, and
	// the offer is what that host is told of the rest. ErrTorn.
	ReadSaved(ctx context.Context, vm string, file io.Reader) (offer []byte, from int64, err error)
	// SavedHead gives the head of such a file for this host, to be put before what follows it at another one. It is made of the spec:
	// the offer, which may be a stranger's, is held against it.
	SavedHead(ctx context.Context, s Spec, offer []byte) (head []byte, err error)
	// Console attaches to the serial console; one reader at a time, a newer one takes over.
	Console(ctx context.Context, vm string) (io.ReadWriteCloser, error)
	// Display attaches to the display (RFB, RFC 6143, without authentication), as many viewers as there are. ErrNoDisplay: the
	// domain's hardware profile has none. Its end is the domain's.
	Display(ctx context.Context, vm string) (io.ReadWriteCloser, error)
	// Usage tells what each domain that runs has used. A domain that cannot be asked just now is left out.
	Usage(ctx context.Context) ([]Usage, error)
	// AttachDisk plugs a disk into a domain that runs; nil when it is there already. ErrNoPlug; ErrState: it does not run.
	AttachDisk(ctx context.Context, vm string, k Disk) error
	// DetachDisk asks the guest to let a disk go, which it may do later or never: until it has, the disk is among the domain's. nil
	// when it is not there. It may be repeated. ErrNoPlug; ErrState: it does not run.
	DetachDisk(ctx context.Context, vm, target string) error
	// GrowDisk makes a disk of a domain that runs, and its file, larger, to so many bytes; nil when it has as many already. The guest
	// sees it at once.
	GrowDisk(ctx context.Context, vm, target string, bytes int64) error
	// Watch tells of changes until ctx ends; then the channel is closed. It reconnects by itself.
	Watch(ctx context.Context) (<-chan Event, error)

	MigrateBegin(ctx context.Context, vm string) (offer []byte, err error)
	// MigratePrepare makes the incoming domain. The disks of s exist at the target already (same virtual size, same base).
	MigratePrepare(ctx context.Context, s Spec, offer []byte) (answer []byte, err error)
	// MigrateConnect opens the target's end of a stream.
	MigrateConnect(ctx context.Context, vm string, c Channel) (net.Conn, error)
	// MigratePerform copies until the source is paused and the target has everything. It dials Memory once and Storage at
	// least once for every writable disk, and needs both directions of each. When it returned, its connections are closed. The end
	// of ctx is a cancel.
	MigratePerform(ctx context.Context, vm string, o Outgoing) (result []byte, err error)
	// MigrateFinish ends the target's part: commit runs the domain, otherwise it is destroyed (nil when there is none).
	// A commit returns as soon as the guest runs; a repeated one, after an answer that was lost, returns nil. ErrNotFound
	// says for certain that no copy is left here (the agent's connection was lost in between): the source's paused
	// copy is the only one then. ErrState: what is here is another copy, untouched; an abort after a commit is that too.
	MigrateFinish(ctx context.Context, vm string, result []byte, commit bool) error
	// MigrateConfirm ends the source's part: commit destroys the paused domain (nil when there is none; ErrState when it
	// runs), otherwise it runs on. Both may be repeated.
	MigrateConfirm(ctx context.Context, vm string, commit bool) error
	// MigrateProgress: ErrState when no migration was begun. While the disks are copied nothing is known of the memory yet (0).
	MigrateProgress(ctx context.Context, vm string) (Progress, error)
	// MigrateCancel makes a MigratePerform at work return ErrCancelled; nil when there is none.
	MigrateCancel(ctx context.Context, vm string) error
	Close() error
}
