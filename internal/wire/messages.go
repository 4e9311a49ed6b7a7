package wire

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/netplan"
)

// The paths of the private protocol. Those under /agent are served by agents, those under /control by an agent's own
// controller, those under /fed by a peer's controller.
const (
	PathState    = "/agent/v1/state"            // HostState -> Empty
	PathChange   = "/agent/v1/state/change"     // StateChange -> Empty
	PathReboot   = "/agent/v1/reboot"           // RebootCall -> Empty
	PathConsole  = "/agent/v1/console"          // stream, ConsoleHeader
	PathDisplay  = "/agent/v1/display"          // stream, ConsoleHeader; CapDisplay
	PathUsage    = "/agent/v1/usage"            // UsageCall -> api.Usage; CapUsage
	PathDisk     = "/agent/v1/disk"             // stream, DiskHeader; CapReadDisk
	PathChannel  = "/agent/v1/migrate/channel"  // stream, ChannelHeader: towards the target's hypervisor
	PathBegin    = "/agent/v1/migrate/begin"    // MigrateCall -> MigrateOffer
	PathPrepare  = "/agent/v1/migrate/prepare"  // PrepareCall -> MigrateAnswer
	PathPerform  = "/agent/v1/migrate/perform"  // PerformCall -> MigrateResult; lasts as long as the copying
	PathFinish   = "/agent/v1/migrate/finish"   // FinishCall -> Empty
	PathConfirm  = "/agent/v1/migrate/confirm"  // FinishCall -> Empty
	PathCancel   = "/agent/v1/migrate/cancel"   // MigrateCall -> Empty
	PathProgress = "/agent/v1/migrate/progress" // MigrateCall -> api.Progress

	PathReport     = "/control/v1/report"  // HostReport -> Empty
	PathOutgoing   = "/control/v1/channel" // stream, ChannelHeader: from the source's agent
	PathAgentImage = "/control/v1/image"   // stream, ImageHeader: the image's bytes follow

	PathFedDocument  = "/fed/v1/document"       // Envelope -> Envelope or Empty
	PathFedChallenge = "/fed/v1/challenge"      // Empty -> Challenge
	PathFedCheck     = "/fed/v1/guest/check"    // ClaimCall -> CheckAnswer
	PathFedReserve   = "/fed/v1/guest/reserve"  // ClaimCall -> Claim
	PathFedPrepare   = "/fed/v1/guest/prepare"  // PrepareCall -> MigrateAnswer
	PathFedFinish    = "/fed/v1/guest/finish"   // FinishCall -> Empty
	PathFedBegin     = "/fed/v1/guest/begin"    // MigrateCall -> MigrateOffer
	PathFedPerform   = "/fed/v1/guest/perform"  // PerformCall -> MigrateResult
	PathFedConfirm   = "/fed/v1/guest/confirm"  // FinishCall -> Empty
	PathFedCancel    = "/fed/v1/guest/cancel"   // MigrateCall -> Empty
	PathFedProgress  = "/fed/v1/guest/progress" // MigrateCall -> api.Progress
	PathFedOrder     = "/fed/v1/guest/order"    // GuestOrder -> Empty: power, deletion
	PathFedReboot    = "/fed/v1/guest/reboot"   // RebootCall -> Empty
	PathFedStatus    = "/fed/v1/guest/status"   // GuestReport -> Empty: lender to home
	PathFedUsage     = "/fed/v1/guest/usage"    // UsageCall -> api.Usage; CapUsage
	PathFedChannel   = "/fed/v1/channel"        // stream, ChannelHeader
	PathFedConsole   = "/fed/v1/console"        // stream, ConsoleHeader
	PathFedDisplay   = "/fed/v1/display"        // stream, ConsoleHeader; CapDisplay
	PathFedImage     = "/fed/v1/image"          // stream, ImageHeader
	PathFedDisk      = "/fed/v1/disk"           // stream, DiskHeader; CapReadDisk
)

// Empty is a message without content.
type Empty struct{}

// Run says what an agent is to do with a VM.
type Run string

// What an agent is to do with a VM.
const (
	RunOn   Run = "on"   // runs
	RunOff  Run = "off"  // does not run (ACPI, then hard after the grace); the volume is kept
	RunHard Run = "hard" // is stopped at once; the volume is kept
	RunGone Run = "gone" // does not run, and its volume and seed are removed
	// RunSuspended (CapSuspend): stands still, with its memory where it is. One that does not run is not started for it. Others than
	// those with the capability refuse the order, and go on with the one before.
	RunSuspended Run = "suspended"
	// RunHibernated (CapHibernate): has its memory in a file beside its disks, and no domain. RunOn goes on from it. One that does not
	// run is not started for it. RunHard gives the memory up.
	RunHibernated Run = "hibernated"
)

// Runs are all that an agent can be told to do with a VM.
var Runs = []Run{RunOn, RunSuspended, RunHibernated, RunOff, RunHard, RunGone}

// Up tells whether a VM is to have a guest, that runs or stands still.
func (r Run) Up() bool { return r == RunOn || r == RunSuspended }

// VMOrder is what a controller wants of one VM on one host. An agent obeys it when Epoch is not lower than the highest
// that it has seen of the VM (law 2).
type VMOrder struct {
	VM    string `json:"vm"` // UID
	Name  string `json:"name"`
	Home  string `json:"home"`
	Epoch uint64 `json:"epoch"`
	Run   Run    `json:"run"`
	// Serial counts the changes of Run at the home site. A report says which one it answers.
	Serial uint64 `json:"serial,omitempty" since:"1"`
	api.Hardware
	Image   string    `json:"image"`    // digest of the base image
	DiskMiB int64     `json:"disk_mib"` // of the root disk
	NIC     NICOrder  `json:"nic"`
	Seed    SeedOrder `json:"seed"`
	// Disks are those beside the root disk; CapDisks. One that is not named is left alone: only Gone removes a disk.
	Disks []DiskOrder `json:"disks,omitempty" since:"2"`
}

// DiskOrder is a VM's disk beside its root disk.
type DiskOrder struct {
	Name    string `json:"name"`
	Slot    int    `json:"slot"` // its place in the machine, 1 to api.MaxDisks; it keeps it
	SizeMiB int64  `json:"size_mib"`
	Gone    bool   `json:"gone,omitempty"` // it is to be removed, as soon as no guest has it
	// Volume is the UID of the volume that the disk is, of a VM at its home. The file is taken from where the volume is kept, and with
	// Gone it goes back there.
	Volume string `json:"volume,omitempty" since:"2"`
	Epoch  uint64 `json:"epoch,omitempty" since:"2"` // of the volume
	New    bool   `json:"new,omitempty" since:"2"`   // the volume may not have been made yet
}

// VolumeOrder is what a controller wants of a volume that no VM has, on the host where it is kept. An agent obeys it when Epoch is not
// lower than the highest that it has seen of the volume.
type VolumeOrder struct {
	Volume  string `json:"volume"` // UID
	Name    string `json:"name"`
	Epoch   uint64 `json:"epoch"`
	SizeMiB int64  `json:"size_mib"`
	New     bool   `json:"new,omitempty"`  // it may not have been made yet
	Gone    bool   `json:"gone,omitempty"` // it is to be removed
}

// NICOrder is a VM's network card.
type NICOrder struct {
	Network string `json:"network"` // UID
	MAC     string `json:"mac"`
	IPv6    string `json:"ipv6"`
	IPv4    string `json:"ipv4,omitempty"`
	MTU     int    `json:"mtu"`
}

// SeedOrder is what cloud-init is told.
type SeedOrder struct {
	Hostname string   `json:"hostname"`
	UserData string   `json:"user_data,omitempty"`
	SSHKeys  []string `json:"ssh_keys,omitempty"`
	Prefix   string   `json:"prefix,omitempty"`
}

// What concerns networks is planned and judged in netplan, and carried here as it is.
type (
	NetworkOrder  = netplan.Order    // a network as one host is to carry it
	NetworkView   = netplan.View     // a network as its home site sees it
	EndpointOrder = netplan.Endpoint // a VM's place on a network
	Mapping       = netplan.Mapping  // a service address and where it leads
)

// HostState is everything that a host is to be. What it does not name is left as it is and shows in the report. One that is
// too large for a message comes in parts (Split), which are in force when all have come.
type HostState struct {
	Revision    int64          `json:"revision"` // of the controller's store; an agent ignores an older one than it has
	AnycastVTEP netip.Addr     `json:"anycast_vtep,omitzero"`
	Pref64      netip.Prefix   `json:"pref64,omitzero"`
	VMs         []VMOrder      `json:"vms"`
	Networks    []NetworkOrder `json:"networks"`
	Mappings    []Mapping      `json:"mappings,omitempty"`          // gateways only
	Volumes     []VolumeOrder  `json:"volumes,omitempty" since:"2"` // that no VM has; CapDisks
	Part        int            `json:"part,omitempty" since:"1"`    // from 0; CapStateParts
	Parts       int            `json:"parts,omitempty" since:"1"`   // how many there are; 0: this is the whole
}

// VMReport is what an agent sees of one VM.
type VMReport struct {
	VM        string     `json:"vm"`
	Epoch     uint64     `json:"epoch"` // highest seen
	State     VMState    `json:"state"`
	Serial    uint64     `json:"serial,omitempty" since:"1"` // of the order that the agent had; 0: it does not say
	Job       string     `json:"job,omitempty"`              // migration under way
	DiskBytes int64      `json:"disk_bytes,omitempty"`
	IPv4Seen  netip.Addr `json:"ipv4_seen,omitzero"` // its own ones, for releases that do not know Addresses
	IPv6Seen  netip.Addr `json:"ipv6_seen,omitzero"`
	Message   string     `json:"message,omitempty"`
	// Machine is what the copy is made of; nil: nothing is said of it.
	Machine *MachineReport `json:"machine,omitempty" since:"2"`
	// Addresses are those that the VM was seen with, its own ones and others, at most MaxSeen.
	Addresses []SeenAddress `json:"addresses,omitempty" since:"2"`
}

// MachineReport is what a VM's copy is made of now, which may not be what was ordered yet.
type MachineReport struct {
	CPUs      int          `json:"cpus,omitempty"` // 0: it does not run
	MemoryMiB int          `json:"memory_mib,omitempty"`
	Disks     []DiskReport `json:"disks"` // that are on the host, api.RootDisk first
}

// DiskReport is what is seen of a VM's disk.
type DiskReport struct {
	Name    string `json:"name"` // api.RootDisk, or as ordered
	SizeMiB int64  `json:"size_mib"`
	Bytes   int64  `json:"bytes,omitempty"`   // that it takes of the host's disk
	Plugged bool   `json:"plugged,omitempty"` // the guest that runs has it
}

// MaxSeen is how many sightings of addresses a report has of a VM at most.
const MaxSeen = 32

// SeenAddress is an address that a VM was seen with. A guest may claim what is not its own, and reports pass through hands: it is for
// people to look at, and changes nothing.
type SeenAddress struct {
	Address netip.Addr        `json:"address"`
	Source  api.AddressSource `json:"source"`
	Age     int64             `json:"age_seconds"`       // since it was seen last; the clocks of hosts and sites may differ
	Refused bool              `json:"refused,omitempty"` // the host's filters drop what the VM sends with it
}

// VMState is what an agent sees of a VM's copy.
type VMState string

// What an agent sees of a VM's copy.
const (
	CopyStarting VMState = "starting"
	CopyRunning  VMState = "running"
	CopyPaused   VMState = "paused" // source of a migration that waits for the decision
	CopyIncoming VMState = "incoming"
	CopyStopped  VMState = "stopped" // volume present
	CopyGone     VMState = "gone"    // removed as ordered, or handed over
	CopyFailed   VMState = "failed"  // cannot be started; Message says why
	// CopySuspended (CapSuspend): stands still as ordered, or as somebody wants it at the hypervisor.
	CopySuspended VMState = "suspended"
	// CopyHibernated (CapHibernate): it has no domain, and a start goes on from its saved memory.
	CopyHibernated VMState = "hibernated"
)

// For is the report as a session's peer knows it: to one that does not suspend or hibernate VMs, a VM that stands still is in between,
// and one that is hibernated has stopped.
func (r VMReport) For(to *Session) VMReport {
	switch {
	case r.State == CopySuspended && !to.Can(CapSuspend):
		r.State = CopyPaused
	case r.State == CopyHibernated && !to.Can(CapHibernate):
		r.State = CopyStopped
	}
	return r
}

// For is the report as a session's peer knows it.
func (r HostReport) For(to *Session) HostReport {
	r.VMs = slices.Clone(r.VMs)
	for i, v := range r.VMs {
		r.VMs[i] = v.For(to)
	}
	return r
}

// HostReport is what an agent sees of its host. It is sent whole, on every change and every few seconds.
type HostReport struct {
	Boot       string            `json:"boot"` // differs after each start of the agent
	Roles      []api.HostRole    `json:"roles"`
	VTEP       netip.Addr        `json:"vtep"`
	Hypervisor string            `json:"hypervisor"`
	CPU        api.CPU           `json:"cpu"`
	Capacity   api.Resources     `json:"capacity"`
	Applied    int64             `json:"applied"` // revision of the HostState that is true now
	VMs        []VMReport        `json:"vms"`
	Images     []string          `json:"images"`
	Translator *TranslatorReport `json:"translator,omitempty"`
	Message    string            `json:"message,omitempty"`
	Usage      []VMUsage         `json:"usage,omitempty" since:"2"`   // of the VMs that run
	Volumes    []VolumeReport    `json:"volumes,omitempty" since:"2"` // that no VM has, of those that were ordered
	// ImageBytes are those of the files of Images, UnusedBytes those of the ones that no VM here needs any more.
	ImageBytes  int64 `json:"image_bytes,omitempty" since:"2"`
	UnusedBytes int64 `json:"unused_image_bytes,omitempty" since:"2"`
}

// VolumeReport is what an agent sees of a volume that no VM has.
type VolumeReport struct {
	Volume  string `json:"volume"`             // UID
	Epoch   uint64 `json:"epoch"`              // of the order that it answers
	SizeMiB int64  `json:"size_mib,omitempty"` // 0: it is not there
	Bytes   int64  `json:"bytes,omitempty"`    // that it takes of the host's disk
	Message string `json:"message,omitempty"`  // what is wrong with it
}

// VMUsage is what a VM has used since it runs on its host. It begins at zero when the VM is started anew or comes from
// another host.
type VMUsage struct {
	VM          string  `json:"vm"` // UID
	CPU         float64 `json:"cpu_seconds"`
	Memory      int64   `json:"memory_bytes"` // that it holds now
	DiskRead    int64   `json:"disk_read_bytes"`
	DiskWritten int64   `json:"disk_written_bytes"`
	Reads       int64   `json:"disk_reads"` // requests
	Writes      int64   `json:"disk_writes"`
	Received    int64   `json:"received_bytes"`
	Sent        int64   `json:"sent_bytes"`
}

// TranslatorReport is what a gateway's agent sees of its map646.
type TranslatorReport struct {
	Running  bool             `json:"running"`
	Mappings []netip.Addr     `json:"mappings"`                    // service addresses in its table
	Refused  []RefusedMapping `json:"refused,omitempty" since:"1"` // what was ordered and is not in it
	Message  string           `json:"message,omitempty"`
	// Outcomes and Traffic are what it has counted: of all packets, and of each service address that has carried some.
	Outcomes []OutcomeCount   `json:"outcomes,omitempty" since:"2"`
	Traffic  []ServiceTraffic `json:"traffic,omitempty" since:"2"`
}

// The most that a translator's report has of what it has counted.
const (
	MaxOutcomes = 64
	MaxTraffic  = 10000
)

// OutcomeCount is how many packets a translator has handled with one outcome ("4to6", "no_mapping", …), since it was
// started.
type OutcomeCount struct {
	Outcome string `json:"outcome"`
	Packets int64  `json:"packets"`
	Bytes   int64  `json:"bytes"`
}

// ServiceTraffic is what a translator has carried for one service address. It begins at zero when the address comes into
// its table. In is towards the VM.
type ServiceTraffic struct {
	Service    netip.Addr `json:"service"`
	PacketsIn  int64      `json:"packets_in"`
	BytesIn    int64      `json:"bytes_in"`
	PacketsOut int64      `json:"packets_out"`
	BytesOut   int64      `json:"bytes_out"`
}

// RefusedMapping says why a service address is not translated.
type RefusedMapping struct {
	Service netip.Addr `json:"service"`
	Message string     `json:"message"`
}

// RebootCall asks for a reboot.
type RebootCall struct {
	VM    string `json:"vm"`
	Epoch uint64 `json:"epoch"`
	Hard  bool   `json:"hard"`
}

// UsageCall asks what a VM has used lately.
type UsageCall struct {
	VM string `json:"vm"`
}

// ConsoleHeader opens a serial console, or a display.
type ConsoleHeader struct {
	VM string `json:"vm"`
}

// ImageHeader asks for an image by its digest. The answer on the stream is 8 bytes of length, big endian, then the
// format's name ended by a newline, then the content.
type ImageHeader struct {
	Digest string `json:"digest"`
}

// DiskHeader asks for a disk of a stopped VM. It follows on the stream as package volume sends disks, in the codec.
type DiskHeader struct {
	VM    string `json:"vm"`
	Epoch uint64 `json:"epoch"`
	Disk  string `json:"disk"`            // api.RootDisk, or as ordered
	Image string `json:"image,omitempty"` // of the root disk: the digest of the base that the receiver has it over
	Codec string `json:"codec"`
}

// ChannelHeader opens one of a migration's streams.
type ChannelHeader struct {
	Job     string `json:"job"`
	VM      string `json:"vm"`
	Channel string `json:"channel"` // hyper.Channel
	Codec   string `json:"codec"`
}

// MigrateCall names a migration at one end.
type MigrateCall struct {
	Job   string `json:"job"`
	VM    string `json:"vm"`
	Epoch uint64 `json:"epoch"`
	Host  string `json:"host,omitempty"`           // of the source; empty: where its site knows the VM to be
	Cold  bool   `json:"cold,omitempty" since:"2"` // CapMoveStopped: the VM is stopped, and only its disks move
}

// MigrateOffer is what the source's hypervisor says first.
type MigrateOffer struct {
	Offer []byte `json:"offer"`
}

// PrepareCall makes a target ready. Order.Epoch is the epoch that the copy will have after the commit.
type PrepareCall struct {
	Job     string       `json:"job"`
	Order   VMOrder      `json:"order"`
	Network NetworkOrder `json:"network"` // so that the bridge is there before the next HostState
	Offer   []byte       `json:"offer"`
}

// MigrateAnswer is what the target's hypervisor answers.
type MigrateAnswer struct {
	Answer []byte `json:"answer"`
}

// PerformCall starts the copying.
type PerformCall struct {
	Job       string `json:"job"`
	VM        string `json:"vm"`
	Epoch     uint64 `json:"epoch"`
	Answer    []byte `json:"answer"`
	Codec     string `json:"codec"`
	Bandwidth int64  `json:"bandwidth,omitempty"` // bytes per second, 0: no limit
	Host      string `json:"host,omitempty"`      // of the source, as MigrateCall's
}

// MigrateResult is what the source hands over when it has copied everything and is paused.
type MigrateResult struct {
	Result   []byte       `json:"result"`
	Progress api.Progress `json:"progress"`
	PausedAt time.Time    `json:"paused_at"` // by the source host's clock; for people, not for decisions
}

// FinishCall tells an end the decision. For a target that commits, Epoch is that of the new copy; for a source or target
// that is told to abort, Epoch is the one from which on it may run (source) or must not be undercut (target).
type FinishCall struct {
	Job    string `json:"job"`
	VM     string `json:"vm"`
	Epoch  uint64 `json:"epoch"`
	Result []byte `json:"result,omitempty"`
	Commit bool   `json:"commit"`
	Host   string `json:"host,omitempty"` // of the source, when it is the source that is told; as MigrateCall's
}

// ClaimCall asks a site for room.
type ClaimCall struct {
	Job     string        `json:"job"`
	Loan    string        `json:"loan,omitempty"`
	Owner   string        `json:"owner"`
	Needs   api.Resources `json:"needs"`
	Image   int64         `json:"image_bytes,omitempty" since:"1"` // size of the base image's file, bytes; the loan's disk counts it
	Host    string        `json:"host,omitempty"`                  // wanted; empty: the site chooses
	Avoid   string        `json:"avoid,omitempty"`                 // host to avoid (where it runs now)
	Order   VMOrder       `json:"order"`                           // of a migration: RunOff (CapMoveStopped) when the VM is stopped, and stays so
	Network NetworkOrder  `json:"network"`
	Running api.CPU       `json:"running,omitzero"` // what the copy that is to move runs on; a running VM keeps architecture and accelerator, a stopped one the former
	Start   bool          `json:"start,omitempty"`  // a new VM: run it here; otherwise a migration follows
}

// CheckAnswer is every reason at once why a claim would be refused; none: it would be granted now.
type CheckAnswer struct {
	Reasons []api.Reason `json:"reasons,omitempty"`
}

// Claim is room that a site keeps for a job.
type Claim struct {
	Job     string        `json:"job"`
	VM      string        `json:"vm"`
	Home    string        `json:"home"`
	Owner   string        `json:"owner"`
	Loan    string        `json:"loan,omitempty"`
	Host    string        `json:"host"`
	VTEP    netip.Addr    `json:"vtep"`
	CPU     api.CPU       `json:"cpu,omitzero"` // of the host; Model is what a VM gets that names none
	Needs   api.Resources `json:"needs"`
	Image   int64         `json:"image_bytes,omitempty" since:"1"` // as ClaimCall's
	Order   VMOrder       `json:"order"`
	Network NetworkOrder  `json:"network"`
}

// GuestOrder is the home's wish for a VM that runs at a lender.
type GuestOrder struct {
	VM     string     `json:"vm"`
	Epoch  uint64     `json:"epoch"`
	Run    Run        `json:"run"`
	Serial uint64     `json:"serial,omitempty" since:"1"` // as in VMOrder
	Loan   string     `json:"loan,omitempty"`             // to be under from now on; empty: the one that it is under
	Size   *GuestSize `json:"size,omitempty" since:"1"`   // CapGuestSize: to have from its next start on; nil: the one that it has
}

// GuestSize is what a guest can be changed to: one that runs, by a lender with CapDisks, and others.
type GuestSize struct {
	api.Hardware
	Needs   api.Resources `json:"needs"`                        // what the loan is to count
	DiskMiB int64         `json:"disk_mib,omitempty" since:"2"` // of the root disk; 0: nothing is said of disks
	Disks   []DiskOrder   `json:"disks,omitempty" since:"2"`    // as in VMOrder
}

// GuestReport is what a lender sees of a guest.
type GuestReport struct {
	Host   string     `json:"host"`
	VTEP   netip.Addr `json:"vtep"`
	Report VMReport   `json:"report"`
}

// The kinds of signed documents between sites.
const (
	DocOffers      = "offers"       // Offers: lender to borrower, all of them at once
	DocLoanRequest = "loan-request" // LoanRequest: borrower to lender; answered by DocLoan
	DocLoan        = "loan"         // LoanBody: lender to borrower
	DocLoanRenew   = "loan-renew"   // LoanRenew: borrower to lender; answered by DocLoan
	DocViews       = "networks"     // Views: home to lenders, all of them at once
)

// Refusal is an entry of a document that was not taken. The others were.
type Refusal struct {
	Code    api.Code   `json:"code"`
	Field   string     `json:"field"`             // body.networks[0].mappings[1].service
	Network string     `json:"network,omitempty"` // UID
	Service netip.Addr `json:"service,omitzero"`  // of a mapping
	Message string     `json:"message"`
}

// ViewsAnswer is the answer to Views.
type ViewsAnswer struct {
	Refused []Refusal `json:"refused,omitempty"`
}

// Offers is everything that a lender offers to one peer now; what it does not name is withdrawn.
type Offers struct {
	Offers   []OfferBody   `json:"offers"`
	Location *api.Location `json:"location,omitempty" since:"2"` // where the lender is; nil: it does not say
}

// Views is every network of a home site that concerns one lender now; what it does not name is gone.
type Views struct {
	Networks []NetworkView `json:"networks"`
}

// OfferBody is a lender's offer, and what a borrower must know of the lender to use it.
type OfferBody struct {
	Name     string              `json:"name"`
	UID      string              `json:"uid"`
	Spec     api.OfferSpec       `json:"spec"`
	CPUs     []api.CPU           `json:"cpus,omitempty"` // a kind of hypervisor each, with the guest models that all of the kind can run
	Gateways []api.NetworkMember `json:"gateways,omitempty"`
}

// LoanRequest asks for a part of an offer. Name is chosen by the borrower and makes the request idempotent.
type LoanRequest struct {
	Name   string        `json:"name"`
	Offer  string        `json:"offer"`
	Amount api.Resources `json:"amount"`
}

// LoanRenew extends a loan's lease, or gives the loan back.
type LoanRenew struct {
	Name   string `json:"name"`
	Return bool   `json:"return,omitempty"`
}

// LoanBody is a loan as its lender sees it.
type LoanBody struct {
	Name         string        `json:"name"`
	UID          string        `json:"uid"`
	Spec         api.LoanSpec  `json:"spec"`
	State        api.LoanState `json:"state"`
	LeaseSeconds float64       `json:"lease_seconds"` // left, when signed
	GraceSeconds float64       `json:"grace_seconds,omitempty"`
	Message      string        `json:"message,omitempty"`
}

// RawBody marshals a document's body; it panics on a type that JSON cannot hold, which is a defect.
func RawBody(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic("wire: marshal body: " + err.Error())
	}
	return b
}
