package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// role is an end of a migration.
type role string

const (
	source role = "source"
	target role = "target"
)

// record is what must survive the agent's death about one VM. Order.Epoch is the highest epoch seen.
type record struct {
	Order   wire.VMOrder       `json:"order"`
	Network *wire.NetworkOrder `json:"network,omitempty"` // of an incoming migration, until the state has it
	Job     string             `json:"job,omitempty"`     // the migration that the copy is part of
	Role    role               `json:"role,omitempty"`
	Copied  string             `json:"copied,omitempty"` // digests of the disks that are here, of a stopped VM that comes
	Saved   *saved             `json:"saved,omitempty"`  // its memory; nil: none that a start may go through
}

// vm is one VM that the agent knows.
type vm struct {
	uid  string
	busy sync.Mutex // held by whoever works on the VM's copy

	// guarded by Agent.mu
	record      record
	state       wire.VMState
	message     string
	stopping    time.Time // of the ACPI request, zero: none was made
	worked      int       // counts what makeTrue has done: a list of domains that is older says nothing about the VM
	progress    progressSource
	copying     context.CancelCauseFunc // while the disks of a stopped VM are sent or taken in
	rootMiB     int64                   // size of the root disk when it was looked at last
	diskMessage string                  // what is wrong about its disks
	plugged     []string                // targets of the disks that its guest has
	cpus        int                     // of its domain; 0: there is none
	memory      int                     // MiB
	asked       map[string]time.Time    // when its guest was asked to let a disk go, by target
	saveAgain   time.Time               // when its memory may be saved again, after it could not
}

const keyVMs = "vms/"

// load reads what the store remembers.
func (a *Agent) load(ctx context.Context) error {
	return a.o.Store.View(ctx, func(tx store.Tx) error {
		if err := a.loadOrders(tx); err != nil {
			return fmt.Errorf("read the last orders: %w", err)
		}
		if err := a.loadController(tx); err != nil {
			return fmt.Errorf("read the controller's address: %w", err)
		}
		kvs, err := tx.List(keyVMs)
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			v := &vm{uid: strings.TrimPrefix(kv.Key, keyVMs)}
			if err := json.Unmarshal(kv.Value, &v.record); err != nil {
				return fmt.Errorf("read the record of VM %s: %w", v.uid, err)
			}
			a.vms[v.uid] = v
		}
		return a.loadVolumes(tx)
	})
}

// remember changes a VM's record and puts it on stable storage before anybody sees the change. An error of change is
// returned as it is and nothing has changed.
func (a *Agent) remember(ctx context.Context, uid string, change func(*record) error) (*vm, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, known := a.vms[uid]
	if !known {
		v = &vm{uid: uid}
	}
	r := v.record
	if err := change(&r); err != nil {
		return v, err
	}
	value, err := json.Marshal(r)
	if err != nil {
		return v, fmt.Errorf("marshal the record of VM %s: %w", uid, err)
	}
	if _, err := a.o.Store.Update(store.Urgent(ctx), func(tx store.Tx) error { return tx.Put(keyVMs+uid, value) }); err != nil {
		return v, fmt.Errorf("keep the record of VM %s: %w", uid, err)
	}
	v.record = r
	a.vms[uid] = v
	return v, nil
}

// orders takes what the newest state orders, as far as epochs and migrations allow. It is done again and again: an order
// that came while a migration had the word takes hold when that is over.
func (a *Agent) orders(ctx context.Context) {
	a.mu.Lock()
	wanted := a.state.VMs
	a.mu.Unlock()
	for _, o := range wanted {
		err := a.order(ctx, o)
		a.mu.Lock()
		known := a.refused[o.VM] == errText(err)
		if a.refused[o.VM] = errText(err); err == nil {
			delete(a.refused, o.VM)
		}
		a.mu.Unlock()
		if err != nil && !known {
			a.log.Warn("order is not taken", "vm", o.Name, "epoch", o.Epoch, "err", err)
		}
	}
}

var errUnchanged = errors.New("unchanged")

// order takes one VM's order if it is sound and its epoch allows.
func (a *Agent) order(ctx context.Context, o wire.VMOrder) error {
	if err := o.Check("order"); err != nil {
		return err
	}
	var had uint64 // the epoch
	_, err := a.remember(ctx, o.VM, func(r *record) error {
		had = r.Order.Epoch
		switch {
		case r.Order.Home != "" && o.Home != r.Order.Home:
			return api.Errorf(api.CodeForbidden, "VM %s is %s's, not %s's", o.VM, r.Order.Home, o.Home)
		case o.Epoch < r.Order.Epoch:
			return api.Errorf(api.CodeStale, "epoch %d of VM %s is lower than %d, the highest seen", o.Epoch, o.VM, r.Order.Epoch)
		case r.Job != "":
			return errUnchanged // the coordinator's word comes first; the controller repeats its orders
		case r.Order.Run == wire.RunGone && o.Epoch == r.Order.Epoch && o.Run != wire.RunGone:
			return api.Errorf(api.CodeStale, "VM %s is removed or handed over at epoch %d", o.VM, o.Epoch)
		case sameOrder(r.Order, o):
			return errUnchanged
		}
		r.Order, r.Network = o, nil
		return nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err == nil {
		a.mu.Lock()
		v := a.vms[o.VM]
		v.message, v.stopping, v.saveAgain = "", time.Time{}, time.Time{}
		if v.copying != nil && (o.Epoch != had || o.Run != wire.RunOff && o.Run != wire.RunHard) {
			v.copying(api.Errorf(api.CodeConflict, "VM %s is no longer to be stopped here, but %s at epoch %d", o.Name, o.Run, o.Epoch))
		}
		a.mu.Unlock()
	}
	return err
}

func sameOrder(a, b wire.VMOrder) bool {
	keys := slices.Equal(a.Seed.SSHKeys, b.Seed.SSHKeys)
	a.Seed.SSHKeys, b.Seed.SSHKeys = nil, nil
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return keys && string(x) == string(y)
}

// needsWork tells whether the VM's copy is not what its record says, and keeps what is seen.
func (a *Agent) needsWork(v *vm, d hyper.Domain) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := v.record
	here := d.VM != ""
	v.plugged, v.cpus, v.memory = d.Disks, d.CPUs, d.MemoryMiB
	switch {
	case here && d.State == hyper.Running:
		v.state = wire.CopyRunning
	case here && d.State == hyper.Paused:
		v.state = wire.CopyPaused
	case here && d.State == hyper.Suspended:
		v.state = wire.CopySuspended
	case here && d.State == hyper.Incoming:
		v.state = wire.CopyIncoming
	case r.Job != "":
		v.state = wire.CopyStopped
	case r.Saved.whole() && (r.Order.Run == wire.RunHibernated || r.Order.Run == wire.RunSuspended || r.Order.Run == wire.RunOff):
		v.state, v.message = wire.CopyHibernated, ""
	case r.Saved != nil && r.Order.Run != wire.RunOn:
		v.state = wire.CopyPaused // it is to be looked at whether its memory is whole
	case r.Order.Run == wire.RunOff || r.Order.Run == wire.RunHard:
		v.state, v.message = wire.CopyStopped, "" // nothing runs, and nothing is to run
	case r.Order.Run == wire.RunSuspended || r.Order.Run == wire.RunHibernated:
		// It lives in its host's memory alone. To boot it anew would be to say that it had been kept.
		v.state, v.message = wire.CopyStopped, memoryLost
	case r.Order.Run == wire.RunOn && v.state != wire.CopyFailed:
		v.state = wire.CopyStarting
	case v.state == wire.CopyRunning || v.state == wire.CopyPaused || v.state == wire.CopySuspended || v.state == wire.CopyIncoming:
		v.state = "" // it is to go, and its volume is still there
	}
	unsaved := r.Saved != nil && r.Order.Run != wire.RunHibernated && here // it runs, or is to, and has no need of a file
	return r.Job == "" && r.Order.VM != "" && (unsaved || !asOrdered(r.Order.Run, v.state))
}

// memoryLost is said of a VM that is to stand still and has no domain any more.
const memoryLost = "what was in its memory is lost: its host, or the VM itself, has ended before it was saved; a start boots it anew"

// asOrdered tells whether a state is what an order asks for.
func asOrdered(run wire.Run, s wire.VMState) bool {
	switch run {
	case wire.RunOn:
		return s == wire.CopyRunning
	case wire.RunSuspended:
		return s == wire.CopySuspended || s == wire.CopyHibernated || s == wire.CopyStopped
	case wire.RunHibernated:
		return s == wire.CopyHibernated || s == wire.CopyStopped
	case wire.RunOff:
		return s == wire.CopyStopped || s == wire.CopyHibernated
	case wire.RunGone:
		return s == wire.CopyGone
	}
	return s == wire.CopyStopped
}

// makeTrue takes the step that the VM's record asks for; true when another look is worth it at once.
func (a *Agent) makeTrue(ctx context.Context, v *vm) bool {
	a.mu.Lock()
	r := v.record
	before := v.message
	a.mu.Unlock()
	log := a.log.With("vm", r.Order.Name, "epoch", r.Order.Epoch)
	state, again, err := a.step(ctx, v, r)
	a.mu.Lock()
	defer a.mu.Unlock()
	v.worked++
	if v.record.Job != "" {
		return true
	}
	v.state, v.message = state, errText(err)
	if err != nil {
		if v.message != before {
			log.Error("make the VM what it is to be", "run", r.Order.Run, "err", err)
		}
		return false // the ticker tries again
	}
	if asOrdered(r.Order.Run, state) {
		log.Info("VM is as ordered", "run", r.Order.Run, "state", state)
	}
	return again
}

func (a *Agent) step(ctx context.Context, v *vm, r record) (state wire.VMState, again bool, err error) {
	uid := v.uid
	domains, err := a.domains(ctx)
	if err != nil {
		return "", false, err
	}
	d, here := domains[uid]
	if state, again, done, err := a.remembered(ctx, v, r, d); done || err != nil {
		return state, again, err
	}
	switch r.Order.Run {
	case wire.RunOn:
		if here {
			if d.State == hyper.Incoming {
				// Of a migration that was aborted and forgotten before the domain was: it holds nothing of value.
				return "", true, a.o.Hypervisor.Destroy(ctx, uid)
			}
			if d.State == hyper.Paused || d.State == hyper.Suspended {
				// Of a file that the record has forgotten nothing may be left when the guest runs.
				if err := a.o.Volumes.RemoveMemory(ctx, uid); err != nil {
					return wire.CopyPaused, false, err
				}
				return wire.CopyRunning, false, a.o.Hypervisor.Resume(ctx, uid)
			}
			return wire.CopyRunning, false, nil
		}
		a.mu.Lock()
		v.state = wire.CopyStarting
		a.mu.Unlock()
		if err := a.o.Volumes.RemoveMemory(ctx, uid); err != nil { // of which the record knows nothing any more
			return wire.CopyFailed, false, err
		}
		spec, err := a.ready(ctx, r.Order)
		if err != nil {
			return wire.CopyFailed, false, err
		}
		if err := a.o.Hypervisor.Start(ctx, spec); err != nil && !errors.Is(err, hyper.ErrExists) {
			return wire.CopyFailed, false, fmt.Errorf("start: %w", err)
		}
		return wire.CopyRunning, true, nil
	case wire.RunSuspended:
		return a.suspend(ctx, d, here)
	case wire.RunHibernated:
		return a.hibernate(ctx, v, r, d)
	case wire.RunOff:
		if !here {
			return wire.CopyStopped, true, nil
		}
		if d.State == hyper.Suspended { // it hears the request only when it goes on
			return wire.CopyRunning, true, a.o.Hypervisor.Resume(ctx, uid)
		}
		return a.stop(ctx, v)
	case wire.RunHard:
		return wire.CopyStopped, true, a.o.Hypervisor.Destroy(ctx, uid)
	case wire.RunGone:
		if err := a.o.Hypervisor.Destroy(ctx, uid); err != nil {
			return wire.CopyFailed, false, fmt.Errorf("destroy: %w", err)
		}
		if err := a.giveAll(ctx, r.Order); err != nil {
			return wire.CopyFailed, false, err
		}
		if err := a.o.Volumes.Remove(ctx, uid); err != nil {
			return wire.CopyFailed, false, fmt.Errorf("remove volume: %w", err)
		}
		return wire.CopyGone, true, nil
	default:
		return wire.CopyFailed, false, api.Invalidf("run", "%q is not on, suspended, hibernated, off, hard or gone", r.Order.Run)
	}
}

// suspend makes a VM that runs stand still. What a migration that came to nothing has left paused goes on first: as the hypervisor
// sees it, it is not suspended.
func (a *Agent) suspend(ctx context.Context, d hyper.Domain, here bool) (wire.VMState, bool, error) {
	switch {
	case !here:
		return wire.CopyStopped, true, nil
	case d.State == hyper.Incoming: // as of a VM that is to run
		return "", true, a.o.Hypervisor.Destroy(ctx, d.VM)
	case d.State == hyper.Paused:
		return wire.CopyRunning, true, a.o.Hypervisor.Resume(ctx, d.VM)
	}
	if err := a.o.Hypervisor.Suspend(ctx, d.VM); err != nil {
		return wire.CopyRunning, false, fmt.Errorf("suspend: %w", err)
	}
	return wire.CopySuspended, true, nil
}

// stop asks the guest to stop, and after the grace stops it.
func (a *Agent) stop(ctx context.Context, v *vm) (wire.VMState, bool, error) {
	a.mu.Lock()
	asked := v.stopping
	name := v.record.Order.Name
	now := time.Now()
	if asked.IsZero() {
		v.stopping = now
	}
	a.mu.Unlock()
	switch {
	case asked.IsZero():
		a.log.Info("guest is asked to stop", "vm", name, "grace", a.o.StopGrace)
		return wire.CopyRunning, false, a.o.Hypervisor.Shutdown(ctx, v.uid)
	case now.Sub(asked) >= a.o.StopGrace:
		a.log.Warn("guest did not stop by itself", "vm", name, "grace", a.o.StopGrace)
		return wire.CopyStopped, true, a.o.Hypervisor.Destroy(ctx, v.uid)
	}
	return wire.CopyRunning, false, nil
}

// ready brings image, disk, seed and network about, and says what domain they make.
func (a *Agent) ready(ctx context.Context, o wire.VMOrder) (hyper.Spec, error) {
	disks, err := a.disks(ctx, o)
	if err != nil {
		return hyper.Spec{}, err
	}
	seed, err := a.o.Volumes.Seed(ctx, o)
	if err != nil {
		return hyper.Spec{}, fmt.Errorf("cloud-init seed: %w", err)
	}
	seed.Target = hyper.SeedTarget(o.Profile)
	for _, k := range o.Disks {
		if !k.Gone {
			continue
		}
		if err := a.dropDisk(ctx, o.VM, k); err != nil {
			return hyper.Spec{}, fmt.Errorf("disk %s: %w", k.Name, err)
		}
	}
	bridge := a.o.Networks.Bridge(o.NIC.Network)
	if bridge == "" {
		return hyper.Spec{}, fmt.Errorf("network %s is not carried here yet", o.NIC.Network)
	}
	return hyper.Spec{
		VM: o.VM, Name: o.Name, Epoch: o.Epoch, Hardware: o.Hardware,
		Disks: slices.Insert(disks, 1, seed),
		NICs:  []hyper.NIC{{Bridge: bridge, MAC: o.NIC.MAC, MTU: o.NIC.MTU}},
	}, nil
}

// image makes sure that a base image is here.
func (a *Agent) image(ctx context.Context, digest string) error {
	bases, err := a.o.Volumes.Bases(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(bases, func(b Base) bool { return b.Digest == digest }) {
		return nil
	}
	format, content, err := a.o.Controller.Image(ctx, digest)
	if err != nil {
		return err
	}
	defer content.Close()
	return a.o.Volumes.Import(ctx, digest, format, content)
}
