// Package lend is the arithmetic and the law of lending: what is left of an offer, whether a loan may be granted,
// whether a guest fits under its loan, and how a loan ends. (Model: Kueue's cohorts, lendingLimit and borrowingLimit.)
//
// Everything is a function of its arguments; the clock is an argument. The lender's ledger is made of its offers, the
// loans under them and the guests under the loans, as they stand in its store; what a borrower claims plays no part
// (law 5). Refusals are lists of api.Reason: every reason at once, with figures (law 8).
//
// A loan takes its whole amount out of its offer from its grant to its end, used or not. When it has ended, guests that
// are still there (Loan.Status.Used) go on counting until they are gone.
//
// The life of a loan: active, until its lease runs out or the lender reclaims it; reclaimed, until its last guest has
// left or the grace is over; ended. Loan.Status.Expires is the end of the present state: of the lease, then of the grace.
//
// Invariants:
//   - if every loan was granted with CanBorrow and every guest with Admit, the loans under an offer never exceed its
//     LendLimit, those of one borrower its BorrowLimit, and the guests under a loan the loan;
//   - an amount is granted if and only if that much is left; what is given back can be lent again;
//   - sums do not overflow: they stop at the largest int, so a hostile amount is refused and not wrapped around;
//   - a loan never goes back to an earlier state, and every change of one increases its Serial;
//   - no I/O, no clock, no log.
package lend
