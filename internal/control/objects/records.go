package objects

import (
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/saga"
	"widecloud/internal/state"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// HasRole tells whether a host is for a role: by its admin's word, and by its agent's configuration once that is known.
func HasRole(h *api.Host, r api.HostRole) bool {
	return slices.Contains(h.Spec.Roles, r) && (len(h.Status.Roles) == 0 || slices.Contains(h.Status.Roles, r))
}

// Roles are those that a host has.
func Roles(h *api.Host) []api.HostRole {
	return slices.DeleteFunc(slices.Clone(h.Spec.Roles), func(r api.HostRole) bool { return !HasRole(h, r) })
}

// DocumentTime is how long a document may be under way.
const DocumentTime = 2 * time.Minute

// Location says where a copy is.
type Location struct {
	Site string `json:"site"`
	Host string `json:"host"`
	VTEP string `json:"vtep,omitempty"`
	Loan string `json:"loan,omitempty"`
}

// Migration is the saga's own record: everything that a restarted coordinator needs to go on or to undo. It is kept until
// the job has ended.
type Migration struct {
	saga.Head
	VM     string         `json:"vm"`  // name
	UID    string         `json:"uid"` // of the VM
	Source Location       `json:"source"`
	Target Location       `json:"target"`
	Epoch  uint64         `json:"epoch"` // at the source; the commit makes it Epoch+1, an abort Epoch+2
	Call   wire.ClaimCall `json:"call"`
	Offer  []byte         `json:"offer,omitempty"`
	Answer []byte         `json:"answer,omitempty"`
	Result []byte         `json:"result,omitempty"`
	Fenced bool           `json:"fenced,omitempty"` // the target was told to commit: it hears of the abort first
	CPU    api.CPU        `json:"cpu,omitzero"`     // of a stopped VM: what it has at the target when it is started there

	// What the work of a step leaves for the transaction that journals the next one.
	Measured *api.Progress `json:"-"` // of the whole copying
	Left     *Debris       `json:"-"`
}

// Committed is the epoch at the target once it is decided.
func (m *Migration) Committed() uint64 { return m.Epoch + 1 }

// Aborted is the epoch at the source once it is undone.
func (m *Migration) Aborted() uint64 { return m.Epoch + 2 }

// Debris is what a job that has ended could not clean up, because somebody was not reached. It is tried until it is done.
type Debris struct {
	Job    string          `json:"job"`
	VM     string          `json:"vm"`
	Target *Location       `json:"target,omitempty"` // hears Abort
	Source *Location       `json:"source,omitempty"` // hears Commit
	Call   wire.FinishCall `json:"call"`
}

// Cold tells whether the VM is a stopped one, of which only the disks move.
func (m *Migration) Cold() bool { return m.Call.Order.Run != wire.RunOn }

// ColdMove tells whether a job moves a stopped VM.
func ColdMove(tx *state.Tx, job string) bool {
	if job == "" {
		return false
	}
	m, err := Record[Migration](tx, PrefixMigrations+job)
	return err == nil && m.Cold()
}

// StoppedDisk is a disk of a stopped VM, which a job reads.
type StoppedDisk struct {
	VM    string        `json:"vm"`  // name
	UID   string        `json:"uid"` // of the VM
	Disk  string        `json:"disk"`
	Site  string        `json:"site"` // where it is
	Epoch uint64        `json:"epoch"`
	Base  volume.Digest `json:"base,omitempty"` // of the image that it is over
	Bytes int64         `json:"bytes"`          // that it has at most
}

// PrefixImports is where the records of imports of images are: imports/JOB.
const PrefixImports = "imports/"

// KeepsStopped tells whether the VM that a job holds has to stay stopped as long as the job has it: the job moves it as a stopped
// one, or reads a disk of it.
func KeepsStopped(tx *state.Tx, job string) bool {
	if job == "" {
		return false
	}
	_, err := tx.Object(PrefixImports + job)
	return err == nil || ColdMove(tx, job)
}

// ToSource names the migration to its source.
func (m *Migration) ToSource() wire.MigrateCall {
	return wire.MigrateCall{Job: m.Job, VM: m.UID, Epoch: m.Epoch, Host: m.Source.Host, Cold: m.Cold()}
}

// Member is the location as a member of a network.
func (l Location) Member() api.NetworkMember {
	return api.NetworkMember{Site: l.Site, Host: l.Host, VTEP: l.VTEP, Role: api.RoleHypervisor}
}

// VMOf finds our VM of a UID; nil when there is none. It is shared and must not be changed.
func VMOf(tx *state.Tx, uid string) *api.VM {
	for v := range By[api.VM](tx, "uid", uid) {
		return v
	}
	return nil
}
