package lending

import (
	"context"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/lend"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// The ledger: accounts/LOAN is what a loan grants and what is used of it now (lend.Account), ledger/DAY/LOAN what it was
// on a day (api.LedgerDay). An account is written when what it says has changed, and not while time goes by.
const (
	prefixAccounts = "accounts/"
	prefixLedger   = "ledger/"
)

// dayKey is where a row is kept. Loans that have been folded into one row have their sites in it.
func dayKey(r api.LedgerDay) string {
	loan := r.Loan
	if loan == "" {
		loan = r.Lender + "+" + r.Borrower // no loan is called so: names have no +
	}
	return prefixLedger + r.Day + "/" + loan
}

// account keeps a loan's account: what it was up to now goes into the ledger when it is something else from now on.
func (ln *Lending) account(tx *state.Tx, l *api.Loan, vms int) error {
	now := lend.Open(*l, vms, ln.Now())
	was, err := objects.Record[lend.Account](tx, prefixAccounts+l.Name)
	known := err == nil
	switch {
	case !known && now.Idle(), known && was.Same(now):
		return nil
	case known:
		if err := ln.enter(tx, was, now.Since); err != nil {
			return err
		}
	}
	if now.Idle() {
		return objects.Remove(tx, prefixAccounts+l.Name)
	}
	return objects.PutRecord(tx, prefixAccounts+l.Name, now)
}

// enter puts an account's days into the ledger.
func (ln *Lending) enter(tx *state.Tx, a lend.Account, until time.Time) error {
	for _, r := range a.Days(until) {
		if have, err := objects.Record[api.LedgerDay](tx, dayKey(r)); err == nil {
			r = lend.AddDay(have, r)
		}
		if err := objects.PutRecord(tx, dayKey(r), r); err != nil {
			return err
		}
	}
	return nil
}

// closeAccount ends the account of a loan that is forgotten.
func (ln *Lending) closeAccount(tx *state.Tx, loan string) error {
	a, err := objects.Record[lend.Account](tx, prefixAccounts+loan)
	if err != nil {
		return nil
	}
	if err := ln.enter(tx, a, ln.Now()); err != nil {
		return err
	}
	return objects.Remove(tx, prefixAccounts+loan)
}

// closeForgotten ends the accounts of loans that are no more, as those of a removed peer.
func (ln *Lending) closeForgotten(tx *state.Tx) error {
	var gone []string
	for key := range tx.Objects(prefixAccounts) {
		name := strings.TrimPrefix(key, prefixAccounts)
		if _, err := objects.Find[api.Loan](tx, name); err != nil {
			gone = append(gone, name)
		}
	}
	for _, name := range gone {
		if err := ln.closeAccount(tx, name); err != nil {
			return err
		}
	}
	return nil
}

// pruneLedger forgets the days that are too old, and bounds each day's rows.
func (ln *Lending) pruneLedger(ctx context.Context) error {
	var old []string
	var put []api.LedgerDay
	if err := ln.Read(ctx, func(tx *state.Tx) error {
		old, put = ln.surplus(tx)
		return nil
	}); err != nil || len(old) == 0 {
		return err
	}
	return ln.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		old, put = ln.surplus(tx) // it may have changed meanwhile
		for _, key := range old {
			if err := objects.Remove(tx, key); err != nil {
				return err
			}
		}
		for _, r := range put {
			if err := objects.PutRecord(tx, dayKey(r), r); err != nil {
				return err
			}
		}
		return nil
	})
}

// surplus are the keys to remove of the ledger, and the rows that stand for them.
func (ln *Lending) surplus(tx *state.Tx) (old []string, put []api.LedgerDay) {
	first := lend.Oldest(ln.Now())
	live := func(loan string) bool {
		l, err := objects.Find[api.Loan](tx, loan)
		return err == nil && l.Status.State != api.LoanEnded
	}
	days := map[string][]api.LedgerDay{}
	for key, o := range tx.Objects(prefixLedger) {
		if day, _, _ := strings.Cut(strings.TrimPrefix(key, prefixLedger), "/"); day < first {
			old = append(old, key)
			continue
		}
		r := *o.(*api.LedgerDay)
		days[r.Day] = append(days[r.Day], r)
	}
	for _, rows := range days {
		folded := lend.Fold(slices.Clone(rows), live)
		if len(folded) == len(rows) {
			continue
		}
		for _, r := range rows {
			if !slices.Contains(folded, r) {
				old = append(old, dayKey(r))
			}
		}
		for _, r := range folded {
			if !slices.Contains(rows, r) {
				put = append(put, r)
			}
		}
	}
	return old, put
}

// Ledger is what was lent and borrowed from a day on, up to now.
func (ln *Lending) Ledger(ctx context.Context, p access.Actor, from string) (*api.Ledger, error) {
	if !p.Admin {
		return nil, objects.Forbidden("read the ledger")
	}
	if from != "" {
		if _, err := time.Parse(time.DateOnly, from); err != nil {
			return nil, api.Invalidf("from", "%.40q is not a day such as 2026-11-30", from)
		}
	}
	out := &api.Ledger{Days: []api.LedgerDay{}}
	err := ln.Read(ctx, func(tx *state.Tx) error {
		rows := map[string]api.LedgerDay{}
		for key, o := range tx.Objects(prefixLedger) {
			rows[key] = *o.(*api.LedgerDay)
		}
		for _, o := range tx.Objects(prefixAccounts) {
			for _, r := range o.(*lend.Account).Days(ln.Now()) {
				key := dayKey(r)
				if have, ok := rows[key]; ok {
					r = lend.AddDay(have, r)
				}
				rows[key] = r
			}
		}
		for _, r := range rows {
			if r.Day >= from {
				out.Days = append(out.Days, r)
			}
		}
		return nil
	})
	slices.SortFunc(out.Days, func(a, b api.LedgerDay) int { return strings.Compare(dayKey(a), dayKey(b)) })
	return out, err
}
