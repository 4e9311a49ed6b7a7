package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"widecloud/api"
)

// columns are the tables' columns between the name and what all wide tables end with.
var columns = map[api.Kind][]column{
	api.KindSite: {
		col("REACHED", func(o *api.Site) string { return yes(o.Status.Reached || o.Status.Self) }),
		col("SELF", func(o *api.Site) string { return yes(o.Status.Self) }),
		col("RTT", func(o *api.Site) string { return seconds(o.Status.RTT) }),
		col("HOSTS", func(o *api.Site) string { return strconv.Itoa(o.Status.Hosts) }),
		col("FREE", func(o *api.Site) string { return amount(o.Status.Free) }),
		wide("ENDPOINT", func(o *api.Site) string { return o.Spec.Endpoint }),
		wide("SINCE", func(o *api.Site) string { return stamp(o.Status.Since) }),
		wide("MESSAGE", func(o *api.Site) string { return o.Status.Message }),
	},
	api.KindHost: {
		col("ROLES", func(o *api.Host) string { return list(o.Spec.Roles) }),
		col("STATE", func(o *api.Host) string {
			s := "down"
			if o.Status.Connected {
				s = "up"
			}
			if o.Spec.Cordoned {
				s += ",cordoned"
			}
			return s
		}),
		col("CPU", func(o *api.Host) string { return o.Status.CPU.Accel }),
		col("CAPACITY", func(o *api.Host) string { return amount(o.Status.Capacity) }),
		col("ALLOTTED", func(o *api.Host) string { return amount(o.Status.Allotted) }),
		wide("VTEP", func(o *api.Host) string { return o.Status.VTEP }),
		wide("HYPERVISOR", func(o *api.Host) string { return o.Status.Hypervisor }),
		wide("MODEL", func(o *api.Host) string { return o.Status.CPU.Model }),
		wide("MESSAGE", func(o *api.Host) string { return o.Status.Message }),
	},
	api.KindOwner: {
		col("TITLE", func(o *api.Owner) string { return o.Spec.Title }),
		col("USED", func(o *api.Owner) string { return amount(o.Status.Used) }),
		col("QUOTA", func(o *api.Owner) string { return quota(o.Spec.Quota) }),
	},
	api.KindUser: {
		col("OWNER", func(o *api.User) string { return o.Owner }),
		col("ADMIN", func(o *api.User) string { return yes(o.Spec.Admin) }),
		col("TOKENS", func(o *api.User) string { return strconv.Itoa(len(o.Status.Tokens)) }),
	},
	api.KindPeer: {
		col("REACHED", func(o *api.Peer) string { return yes(o.Status.Reached) }),
		col("RTT", func(o *api.Peer) string { return seconds(o.Status.RTT) }),
		col("ENDPOINT", func(o *api.Peer) string { return o.Spec.Endpoint }),
		wide("FINGERPRINT", func(o *api.Peer) string { return o.Spec.Fingerprint }),
		wide("SINCE", func(o *api.Peer) string { return stamp(o.Status.Since) }),
		wide("MESSAGE", func(o *api.Peer) string { return o.Status.Message }),
	},
	api.KindOffer: {
		col("FROM", func(o *api.Offer) string { return o.Home }),
		col("TO", func(o *api.Offer) string { return list(o.Spec.To) }),
		col("LENDS", func(o *api.Offer) string { return amount(o.Spec.LendLimit) }),
		col("LENT", func(o *api.Offer) string { return amount(o.Status.Lent) }),
		col("GRACE", func(o *api.Offer) string { return o.Spec.Grace.Duration().String() }),
		wide("PER-BORROWER", func(o *api.Offer) string { return optional(o.Spec.BorrowLimit) }),
		wide("LEASE", func(o *api.Offer) string { return o.Spec.Lease.Duration().String() }),
		wide("ON-RECLAIM", func(o *api.Offer) string { return string(o.Spec.OnReclaim) }),
	},
	api.KindLoan: {
		col("STATE", func(o *api.Loan) string { return string(o.Status.State) }),
		col("LENDER", func(o *api.Loan) string { return o.Spec.Lender }),
		col("BORROWER", func(o *api.Loan) string { return o.Spec.Borrower }),
		col("AMOUNT", func(o *api.Loan) string { return amount(o.Spec.Amount) }),
		col("USED", func(o *api.Loan) string { return amount(o.Status.Used) }),
		wide("OFFER", func(o *api.Loan) string { return o.Spec.Offer }),
		wide("EXPIRES", func(o *api.Loan) string { return stamp(o.Status.Expires) }),
		wide("MESSAGE", func(o *api.Loan) string { return o.Status.Message }),
	},
	api.KindImage: {
		col("PHASE", func(o *api.Image) string { return o.Status.Phase }),
		col("FORMAT", func(o *api.Image) string { return o.Status.Format }),
		col("SIZE", func(o *api.Image) string { return sizeOr(o.Status.Bytes) }),
		col("DISK", func(o *api.Image) string { return sizeOr(o.Status.VirtualMiB << 20) }),
		wide("DIGEST", func(o *api.Image) string { return o.Status.Digest }),
		wide("SOURCE", func(o *api.Image) string { return o.Spec.Source }),
		wide("MESSAGE", func(o *api.Image) string { return o.Status.Message }),
	},
	api.KindVolume: {
		col("VM", func(o *api.Volume) string { return o.Spec.VM }),
		col("SIZE", func(o *api.Volume) string { return sizeOr(o.Spec.SizeMiB << 20) }),
		col("USED", func(o *api.Volume) string { return sizeOr(o.Status.AllocatedBytes) }),
		col("PLACE", func(o *api.Volume) string { return place(o.Status.Site, o.Status.Host) }),
		wide("IMAGE", func(o *api.Volume) string { return o.Spec.Image }),
	},
	api.KindNetwork: {
		col("PREFIX", func(o *api.Network) string { return o.Spec.Prefix }),
		col("IPV4", func(o *api.Network) string { return o.Spec.IPv4 }),
		col("VNI", func(o *api.Network) string { return strconv.FormatUint(uint64(o.Spec.VNI), 10) }),
		col("HOSTS", func(o *api.Network) string { return strconv.Itoa(len(o.Status.Members)) }),
		wide("MTU", func(o *api.Network) string { return strconv.Itoa(o.Spec.MTU) }),
		wide("MOBILITY", func(o *api.Network) string { return o.Spec.Mobility }),
	},
	api.KindVM: {
		col("PHASE", func(o *api.VM) string { return string(o.Status.Phase) }),
		col("PLACE", func(o *api.VM) string { return place(o.Status.Site, o.Status.Host) }),
		col("CPUS", func(o *api.VM) string { return strconv.Itoa(o.Spec.CPUs) }),
		col("MEMORY", func(o *api.VM) string { return size(int64(o.Spec.MemoryMiB) << 20) }),
		col("ADDRESSES", func(o *api.VM) string {
			var l []string
			for _, x := range o.Status.Addresses {
				l = append(l, x.Address)
			}
			return list(l)
		}),
		wide("IMAGE", func(o *api.VM) string { return o.Spec.Image }),
		wide("NETWORK", func(o *api.VM) string { return o.Spec.Network }),
		wide("MAC", func(o *api.VM) string { return o.Status.MAC }),
		wide("EPOCH", func(o *api.VM) string { return strconv.FormatUint(o.Status.Epoch, 10) }),
		wide("LOAN", func(o *api.VM) string { return o.Status.Loan }),
		wide("JOB", func(o *api.VM) string { return o.Status.Job }),
		wide("SINCE", func(o *api.VM) string { return stamp(o.Status.Since) }),
		wide("MESSAGE", func(o *api.VM) string { return o.Status.Message }),
	},
	api.KindGuest: {
		col("VM", func(o *api.Guest) string { return o.Spec.VM }),
		col("PHASE", func(o *api.Guest) string { return string(o.Status.Phase) }),
		col("HOST", func(o *api.Guest) string { return o.Spec.Host }),
		col("LOAN", func(o *api.Guest) string { return o.Spec.Loan }),
		col("NEEDS", func(o *api.Guest) string { return amount(o.Spec.Needs) }),
		wide("EPOCH", func(o *api.Guest) string { return strconv.FormatUint(o.Spec.Epoch, 10) }),
		wide("MESSAGE", func(o *api.Guest) string { return o.Status.Message }),
	},
	api.KindAddress: {
		col("ADDRESS", func(o *api.Address) string { return o.Spec.Address }),
		col("VM", func(o *api.Address) string { return o.Spec.VM }),
		col("TARGET", func(o *api.Address) string { return o.Status.Target }),
		wide("TRANSLATORS", func(o *api.Address) string { return list(o.Status.Translators) }),
		wide("REFUSED", func(o *api.Address) string {
			var l []string
			for _, r := range o.Status.Refused {
				l = append(l, r.By+": "+r.Message)
			}
			return strings.Join(l, "; ")
		}),
	},
	api.KindTranslator: {
		col("HOST", func(o *api.Translator) string { return o.Spec.Host }),
		col("RUNNING", func(o *api.Translator) string { return yes(o.Status.Running) }),
		col("MAPPINGS", func(o *api.Translator) string { return strconv.Itoa(o.Status.Mappings) }),
		wide("MESSAGE", func(o *api.Translator) string { return o.Status.Message }),
	},
	api.KindJob: {
		col("TYPE", func(o *api.Job) string { return o.Spec.Type }),
		col("OBJECT", func(o *api.Job) string { return o.Spec.Object }),
		col("TARGET", func(o *api.Job) string { return o.Spec.Target }),
		col("STATE", func(o *api.Job) string { return string(o.Status.State) }),
		col("STEP", func(o *api.Job) string { return o.Status.Step }),
		col("PROGRESS", func(o *api.Job) string {
			if _, total := done(o.Status.Progress); total > 0 {
				return fmt.Sprintf("%d%%", percent(o.Status.Progress))
			}
			return ""
		}),
		wide("STARTED", func(o *api.Job) string { return stamp(o.Status.Started) }),
		wide("ENDED", func(o *api.Job) string { return stamp(o.Status.Ended) }),
		wide("MESSAGE", func(o *api.Job) string { return o.Status.Message }),
	},
	api.KindEvent: {
		col("TIME", func(o *api.Event) string { return stamp(o.Time) }),
		col("TYPE", func(o *api.Event) string { return o.Type }),
		col("OBJECT", func(o *api.Event) string { return o.Object }),
		col("ACTOR", func(o *api.Event) string { return o.Actor }),
		col("MESSAGE", func(o *api.Event) string { return o.Message }),
	},
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// seconds shows a round-trip time.
func seconds(s float64) string {
	if s == 0 {
		return ""
	}
	return fmt.Sprintf("%.1fms", s*1000)
}

func list[S ~string](l []S) string {
	var b []string
	for _, s := range l {
		b = append(b, string(s))
	}
	return strings.Join(b, ",")
}

func place(site, host string) string { return strings.Trim(site+"/"+host, "/") }

// amount shows resources as 4c/2G/20G, with 1a for an address.
func amount(r api.Resources) string {
	s := fmt.Sprintf("%dc/%s/%dG", r.CPUs, strings.ReplaceAll(size(int64(r.MemoryMiB)<<20), "iB", ""), r.DiskGiB)
	if r.Addresses > 0 {
		s += fmt.Sprintf("/%da", r.Addresses)
	}
	return s
}

func optional(r *api.Resources) string {
	if r == nil {
		return ""
	}
	return amount(*r)
}

// quota shows the limits that there are as 4c/2G, and "" when there is none.
func quota(q *api.Quota) string {
	if q == nil {
		return ""
	}
	var l []string
	for _, f := range []struct {
		limit *int
		text  func(int) string
	}{
		{q.CPUs, func(n int) string { return strconv.Itoa(n) + "c" }},
		{q.MemoryMiB, func(n int) string { return strings.ReplaceAll(size(int64(n)<<20), "iB", "") }},
		{q.DiskGiB, func(n int) string { return strconv.Itoa(n) + "G" }},
		{q.Addresses, func(n int) string { return strconv.Itoa(n) + "a" }},
	} {
		if f.limit != nil {
			l = append(l, f.text(*f.limit))
		}
	}
	return strings.Join(l, "/")
}

// size shows an amount of bytes with one unit: 512MiB, 1.5GiB.
func size(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + "B"
	}
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + units[i]
}

func sizeOr(n int64) string {
	if n == 0 {
		return ""
	}
	return size(n)
}
