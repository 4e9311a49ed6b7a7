package lend

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"widecloud/api"
)

// LedgerDays is how long the ledger's days are kept.
const LedgerDays = 400

// maxRows is how many loans between two sites have rows of their own on a day.
const maxRows = 50

// Account is what a loan grants and what is used of it since a moment. It is closed, and another one opened, when that
// changes: what was lent follows from the accounts, however long nobody looks.
type Account struct {
	Loan     string        `json:"loan"`
	Lender   string        `json:"lender"`
	Borrower string        `json:"borrower"`
	Since    time.Time     `json:"since"`
	Granted  api.Resources `json:"granted"`
	Used     api.Resources `json:"used"`
	VMs      int           `json:"vms"`
}

// Open is a loan's account from now on.
func Open(l api.Loan, vms int, now time.Time) Account {
	return Account{Loan: l.Name, Lender: l.Spec.Lender, Borrower: l.Spec.Borrower, Since: now, Granted: Held(l), Used: l.Status.Used, VMs: vms}
}

// Same tells whether two accounts of a loan say the same of it, whenever they were opened.
func (a Account) Same(b Account) bool {
	a.Since = b.Since
	return a == b
}

// Idle tells whether nothing is granted and nothing used.
func (a Account) Idle() bool {
	return a.Granted == (api.Resources{}) && a.Used == (api.Resources{}) && a.VMs == 0
}

// Days are the account's rows up to now, one for each day of UTC, of the last LedgerDays. A clock that was set back makes
// none.
func (a Account) Days(now time.Time) (out []api.LedgerDay) {
	from, now := a.Since.UTC(), now.UTC()
	if first := midnight(now).AddDate(0, 0, 1-LedgerDays); from.Before(first) {
		from = first
	}
	for from.Before(now) {
		to := midnight(from).AddDate(0, 0, 1)
		if now.Before(to) {
			to = now
		}
		hours := to.Sub(from).Hours()
		out = append(out, api.LedgerDay{
			Day: from.Format(time.DateOnly), Loan: a.Loan, Lender: a.Lender, Borrower: a.Borrower,
			Granted: during(a.Granted, hours), Used: during(a.Used, hours), VMs: float64(a.VMs) * hours,
		})
		from = to
	}
	return out
}

// Oldest is the first day that is kept.
func Oldest(now time.Time) string {
	return midnight(now.UTC()).AddDate(0, 0, 1-LedgerDays).Format(time.DateOnly)
}

func midnight(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
}

func during(r api.Resources, hours float64) api.Hours {
	return api.Hours{
		CPUs: float64(r.CPUs) * hours, Memory: float64(r.MemoryMiB) / 1024 * hours,
		Disk: float64(r.DiskGiB) * hours, Addresses: float64(r.Addresses) * hours,
	}
}

// AddDay adds up two rows. The first one's names stay.
func AddDay(a, b api.LedgerDay) api.LedgerDay {
	a.Granted, a.Used, a.VMs = addHours(a.Granted, b.Granted), addHours(a.Used, b.Used), a.VMs+b.VMs
	return a
}

func addHours(a, b api.Hours) api.Hours {
	return api.Hours{CPUs: a.CPUs + b.CPUs, Memory: a.Memory + b.Memory, Disk: a.Disk + b.Disk, Addresses: a.Addresses + b.Addresses}
}

// Fold bounds the rows of one day: of more than 50 loans between two sites, those that have ended and used the least
// become one row that names no loan. What it gives adds up to the same.
func Fold(rows []api.LedgerDay, live func(loan string) bool) []api.LedgerDay {
	type pair struct{ lender, borrower string }
	between := map[pair][]api.LedgerDay{}
	for _, r := range rows {
		p := pair{r.Lender, r.Borrower}
		between[p] = append(between[p], r)
	}
	var out []api.LedgerDay
	for _, p := range slices.SortedFunc(maps.Keys(between), func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.lender, b.lender), cmp.Compare(a.borrower, b.borrower))
	}) {
		out = append(out, foldPair(between[p], live)...)
	}
	return out
}

func foldPair(rows []api.LedgerDay, live func(loan string) bool) []api.LedgerDay {
	if len(rows) <= maxRows {
		return rows
	}
	fixed := func(r api.LedgerDay) bool { return r.Loan != "" && live(r.Loan) }
	slices.SortFunc(rows, func(a, b api.LedgerDay) int {
		if fixed(a) != fixed(b) {
			return map[bool]int{true: -1, false: 1}[fixed(a)]
		}
		return cmp.Or(-cmp.Compare(min(1, len(a.Loan)), min(1, len(b.Loan))), -cmp.Compare(a.Used.Memory, b.Used.Memory), cmp.Compare(a.Loan, b.Loan))
	})
	kept := maxRows - 1
	for kept < len(rows) && fixed(rows[kept]) {
		kept++
	}
	out := rows[:kept:kept]
	if kept == len(rows) {
		return out
	}
	rest := rows[kept]
	rest.Loan = ""
	for _, r := range rows[kept+1:] {
		rest = AddDay(rest, r)
	}
	return append(out, rest)
}
