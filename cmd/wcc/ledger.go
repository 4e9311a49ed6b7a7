package main

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"widecloud/api"
)

type ledgerCmd struct {
	Days   int    `help:"How many days, today among them; a day is one of UTC." default:"30"`
	ByLoan bool   `help:"A row for each loan and day; left out: one for each pair of sites, of all days together."`
	Output string `short:"o" help:"How: json, with all rows; left out: a table." enum:",json" default:""`
}

// Run shows what was lent and borrowed.
func (c *ledgerCmd) Run(a *app) error {
	if c.Days < 1 {
		return usagef("--days: %d is not at least 1", c.Days)
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	l, err := client.Ledger(a, time.Now().UTC().AddDate(0, 0, 1-c.Days).Format(time.DateOnly))
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.out.json(l)
	}
	if len(l.Days) == 0 {
		return a.err.printf("nothing was lent or borrowed in the last %d days\n", c.Days)
	}
	rows, head := l.Days, []string{"DAY", "LOAN"}
	if !c.ByLoan {
		rows, head = together(l.Days), nil
	}
	table := [][]string{append(head, "LENDER", "BORROWER", "VM HOURS", "CPU HOURS", "OF", "MEMORY GIB HOURS", "OF", "DISK GIB HOURS", "OF")}
	for _, r := range rows {
		var row []string
		if c.ByLoan {
			row = []string{r.Day, cmp.Or(r.Loan, "several")}
		}
		table = append(table, append(row, r.Lender, r.Borrower, hours(r.VMs), hours(r.Used.CPUs), hours(r.Granted.CPUs),
			hours(r.Used.Memory), hours(r.Granted.Memory), hours(r.Used.Disk), hours(r.Granted.Disk)))
	}
	return a.out.table(table)
}

// together adds up the rows of each pair of sites.
func together(rows []api.LedgerDay) []api.LedgerDay {
	type pair struct{ lender, borrower string }
	sums := map[pair]api.LedgerDay{}
	for _, r := range rows {
		p := pair{r.Lender, r.Borrower}
		s := sums[p]
		s.Lender, s.Borrower, s.VMs = r.Lender, r.Borrower, s.VMs+r.VMs
		s.Used, s.Granted = addHours(s.Used, r.Used), addHours(s.Granted, r.Granted)
		sums[p] = s
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b api.LedgerDay) int {
		return cmp.Or(cmp.Compare(a.Lender, b.Lender), cmp.Compare(a.Borrower, b.Borrower))
	})
}

func addHours(a, b api.Hours) api.Hours {
	return api.Hours{CPUs: a.CPUs + b.CPUs, Memory: a.Memory + b.Memory, Disk: a.Disk + b.Disk, Addresses: a.Addresses + b.Addresses}
}

func hours(n float64) string { return strconv.FormatFloat(n, 'f', 1, 64) }
