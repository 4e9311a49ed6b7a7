package lend_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/lend"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func TestAccountDays(t *testing.T) {
	a := lend.Account{Loan: "l1", Lender: "osaka", Borrower: "tokyo", Since: noon, Granted: res(4, 2048, 10, 0), Used: res(1, 512, 2, 0), VMs: 1}
	row := func(day string, hours float64) api.LedgerDay {
		return api.LedgerDay{
			Day: day, Loan: "l1", Lender: "osaka", Borrower: "tokyo", VMs: hours,
			Granted: api.Hours{CPUs: 4 * hours, Memory: 2 * hours, Disk: 10 * hours}, Used: api.Hours{CPUs: hours, Memory: hours / 2, Disk: 2 * hours},
		}
	}
	for name, c := range map[string]struct {
		now  time.Time
		want []api.LedgerDay
	}{
		"nothing yet":         {noon, nil},
		"a clock set back":    {noon.Add(-time.Hour), nil},
		"half an hour":        {noon.Add(30 * time.Minute), []api.LedgerDay{row("2026-11-30", 0.5)}},
		"up to midnight":      {noon.Add(12 * time.Hour), []api.LedgerDay{row("2026-11-30", 12)}},
		"over midnight":       {noon.Add(13 * time.Hour), []api.LedgerDay{row("2026-11-30", 12), row("2026-12-01", 1)}},
		"another zone's noon": {noon.In(time.FixedZone("", 9*3600)).Add(time.Hour), []api.LedgerDay{row("2026-11-30", 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, a.Days(c.now)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	if days := a.Days(noon.AddDate(5, 0, 0)); len(days) != lend.LedgerDays || days[0].Day != lend.Oldest(noon.AddDate(5, 0, 0)) {
		t.Errorf("five years make %d days", len(days))
	}
}

func total(rows []api.LedgerDay) (sum api.LedgerDay) {
	for _, r := range rows {
		sum = lend.AddDay(sum, r)
	}
	return sum
}

func near(a, b api.LedgerDay) bool {
	for _, p := range [][2]float64{{a.VMs, b.VMs}, {a.Used.CPUs, b.Used.CPUs}, {a.Used.Memory, b.Used.Memory}, {a.Granted.CPUs, b.Granted.CPUs}, {a.Granted.Disk, b.Granted.Disk}, {a.Granted.Addresses, b.Granted.Addresses}} {
		if math.Abs(p[0]-p[1]) > 1e-6*max(1, math.Abs(p[0])) {
			return false
		}
	}
	return true
}

// TestAccountsAddUp: an account that is closed and opened again at any moments says the same in the end.
func TestAccountsAddUp(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(0, 64)
		a := lend.Account{Loan: "l", Lender: "a", Borrower: "b", Since: noon, Granted: res(n.Draw(rt, "cpus"), 1024, 5, 1), Used: res(1, n.Draw(rt, "memory"), 0, 0), VMs: n.Draw(rt, "vms")}
		end := noon
		var parts []api.LedgerDay
		part := a
		for _, s := range rapid.SliceOfN(rapid.IntRange(0, 200_000), 1, 20).Draw(rt, "seconds") {
			end = end.Add(time.Duration(s) * time.Second)
			parts = append(parts, part.Days(end)...)
			part.Since = end
		}
		if whole := total(a.Days(end)); !near(whole, total(parts)) {
			rt.Fatalf("in one: %+v\nin parts: %+v", whole, total(parts))
		}
	})
}

// TestFold: a day is bounded, loses nothing, and keeps a row for each loan that lives.
func TestFold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		count, living := rapid.IntRange(0, 200).Draw(rt, "loans"), rapid.IntRange(0, 80).Draw(rt, "living")
		live := func(loan string) bool {
			var i int
			_, err := fmt.Sscanf(loan, "l%d", &i)
			return err == nil && i < living
		}
		var rows []api.LedgerDay
		for i := range count {
			r := api.LedgerDay{Day: "2026-11-30", Loan: fmt.Sprintf("l%d", i), Lender: "a", Borrower: "b", VMs: 1, Used: api.Hours{Memory: float64(i % 7)}}
			if i%3 == 0 {
				r.Lender, r.Borrower = "b", "a"
			}
			rows = append(rows, r)
		}
		before := total(rows)
		got := lend.Fold(rows, live)
		if !near(before, total(got)) {
			rt.Fatalf("%+v became %+v", before, total(got))
		}
		if most := 100 + min(living, count); len(got) > most {
			rt.Fatalf("%d rows are left, more than %d", len(got), most)
		}
		named := map[string]bool{}
		for _, r := range got {
			named[r.Loan] = true
		}
		for i := range min(living, count) {
			if !named[fmt.Sprintf("l%d", i)] {
				rt.Fatalf("loan l%d lives and has no row", i)
			}
		}
		if again := lend.Fold(got, live); len(again) != len(got) {
			rt.Fatalf("folding again leaves %d of %d", len(again), len(got))
		}
	})
}
