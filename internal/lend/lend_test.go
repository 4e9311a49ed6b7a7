package lend_test

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/lend"
)

func res(cpus, mem, disk, addr int) api.Resources {
	return api.Resources{CPUs: cpus, MemoryMiB: mem, DiskGiB: disk, Addresses: addr}
}

func offer(name string, limit api.Resources, borrow *api.Resources, to ...string) api.Offer {
	return api.Offer{
		Meta: api.Meta{Name: name, Home: "osaka"},
		Spec: api.OfferSpec{To: to, LendLimit: limit, BorrowLimit: borrow},
	}
}

func loan(name, offer, borrower string, amount api.Resources, s api.LoanState) api.Loan {
	return api.Loan{
		Meta:   api.Meta{Name: name},
		Spec:   api.LoanSpec{Offer: offer, Lender: "osaka", Borrower: borrower, Amount: amount},
		Status: api.LoanStatus{State: s},
	}
}

func guest(name, loan string, needs api.Resources) api.Guest {
	return api.Guest{Meta: api.Meta{Name: name}, Spec: api.GuestSpec{VMUID: name, Loan: loan, Needs: needs}}
}

func render(rs []api.Reason) []string {
	var out []string
	for _, r := range rs {
		s := r.Site + " " + r.Code + ": " + r.Message
		if r.Advice != "" {
			s += " -> " + r.Advice
		}
		out = append(out, s)
	}
	return out
}

func TestArithmetic(t *testing.T) {
	big := res(math.MaxInt, 1, 0, -5)
	for _, tc := range []struct {
		name      string
		got, want api.Resources
	}{
		{"add", lend.Add(res(1, 2, 3, 4), res(10, 20, 30, 40)), res(11, 22, 33, 44)},
		{"add stops", lend.Add(big, res(1, 1, 1, 1)), res(math.MaxInt, 2, 1, -4)},
		{"add stops below", lend.Add(res(math.MinInt, 0, 0, 0), res(-1, 0, 0, 0)), res(math.MinInt, 0, 0, 0)},
		{"sub", lend.Sub(res(10, 20, 30, 40), res(1, 2, 30, 41)), res(9, 18, 0, 0)},
		{"sub stops", lend.Sub(big, res(-1, math.MinInt, 0, -10)), res(math.MaxInt, math.MaxInt, 0, 5)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, tc.got); d != "" {
				t.Error(d)
			}
		})
	}
	if got := lend.Negative(res(0, 1, -1, -1)); got != "disk_gib" {
		t.Errorf("negative field is %q", got)
	}
}

func TestFits(t *testing.T) {
	if rs := lend.Fits("host h1", res(1, 0, 0, 0), res(1, 0, 0, 0)); rs != nil {
		t.Errorf("an exact fit is refused: %v", rs)
	}
	// What is not needed is never short, even where nothing is left.
	if rs := lend.Fits("host h1", res(1, -5, -1, 0), res(1, 0, 0, 0)); rs != nil {
		t.Errorf("a field that is not needed is short: %v", rs)
	}
	want := []string{
		" cpu: needs 2 CPUs, host h1 has 1 left",
		" memory: needs 512 MiB of memory, host h1 has 0 left",
		" disk: needs 10 GiB of disk, host h1 has 9 left",
		" address: needs 1 service addresses, host h1 has 0 left",
	}
	if d := cmp.Diff(want, render(lend.Fits("host h1", res(1, -3, 9, 0), res(2, 512, 10, 1)))); d != "" {
		t.Error(d)
	}
}

// TestEnough: Enough says in one word what Fits says in reasons.
func TestEnough(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(-2, 4)
		draw := func(what string) api.Resources {
			return res(n.Draw(rt, what), n.Draw(rt, what), n.Draw(rt, what), n.Draw(rt, what))
		}
		left, needs := draw("left"), draw("needs")
		if rs := lend.Fits("host h1", left, needs); lend.Enough(left, needs) != (rs == nil) {
			rt.Fatalf("%+v into %+v: enough is %t, the reasons are %v", needs, left, lend.Enough(left, needs), rs)
		}
	})
}

func TestCanBorrow(t *testing.T) {
	two := res(2, 2048, 20, 1)
	deleting := offer("std", res(8, 8192, 80, 4), nil, "*")
	deleting.Deleting = true
	loans := []api.Loan{
		loan("l1", "std", "tokyo", res(4, 4096, 10, 0), api.LoanActive),
		loan("l2", "std", "kyoto", res(1, 1024, 10, 1), api.LoanReclaimed),
		loan("l3", "std", "kyoto", res(9, 9999, 99, 9), api.LoanEnded), // holds nothing any more
		loan("l4", "other", "tokyo", res(8, 8192, 80, 4), api.LoanActive),
	}
	for _, tc := range []struct {
		name     string
		offer    api.Offer
		borrower string
		amount   api.Resources
		want     []string
	}{
		{"fits", offer("std", res(8, 8192, 80, 4), nil, "tokyo"), "tokyo", res(3, 3072, 60, 3), nil},
		{"to all", offer("std", res(8, 8192, 80, 4), nil, "*"), "nagoya", res(1, 0, 0, 0), nil},
		{"every field", offer("std", res(8, 8192, 80, 1), &two, "*"), "tokyo", res(4, 4096, 61, 1), []string{
			"osaka cpu: asks for 4 CPUs; offer std lends 8 to all borrowers together, 5 lent, 3 left -> ask for at most 3",
			"osaka memory: asks for 4096 MiB of memory; offer std lends 8192 to all borrowers together, 5120 lent, 3072 left -> ask for at most 3072",
			"osaka disk: asks for 61 GiB of disk; offer std lends 80 to all borrowers together, 20 lent, 60 left -> ask for at most 60",
			"osaka address: asks for 1 service addresses; offer std lends 1 to all borrowers together, 1 lent, 0 left -> wait until something is given back, or ask for more to be offered",
			"osaka cpu: asks for 4 CPUs; offer std lends 2 to tokyo, 4 lent, 0 left -> wait until something is given back, or ask for more to be offered",
			"osaka memory: asks for 4096 MiB of memory; offer std lends 2048 to tokyo, 4096 lent, 0 left -> wait until something is given back, or ask for more to be offered",
			"osaka disk: asks for 61 GiB of disk; offer std lends 20 to tokyo, 10 lent, 10 left -> ask for at most 10",
		}},
		{"not to it, and too much", offer("std", res(8, 8192, 80, 4), nil, "kyoto", "kobe"), "tokyo", res(9, 0, 0, 0), []string{
			"osaka permit: offer std is to kyoto, kobe, not to tokyo -> ask osaka to add tokyo to the offer",
			"osaka cpu: asks for 9 CPUs; offer std lends 8 to all borrowers together, 5 lent, 3 left -> ask for at most 3",
		}},
		{"to nobody", offer("std", res(8, 8192, 80, 4), nil), "tokyo", res(1, 0, 0, 0), []string{
			"osaka permit: offer std is to nobody, not to tokyo -> ask osaka to add tokyo to the offer",
		}},
		{"to itself", offer("std", res(8, 8192, 80, 4), nil, "*"), "osaka", res(1, 0, 0, 0), []string{
			"osaka permit: a site does not borrow from itself -> use the hosts of the site itself",
		}},
		{"no borrower", offer("std", res(8, 8192, 80, 4), nil, "*"), "", res(1, 0, 0, 0), []string{
			"osaka permit: the borrower is not named",
		}},
		{"withdrawn", deleting, "tokyo", res(1, 0, 0, 0), []string{
			"osaka loan: offer std is being withdrawn -> choose another offer",
		}},
		{"nothing", offer("std", res(8, 8192, 80, 4), nil, "*"), "tokyo", api.Resources{}, []string{
			"osaka loan: nothing is asked for -> say how much is wanted",
		}},
		{"negative", offer("std", res(8, 8192, 80, 4), nil, "*"), "tokyo", res(1, -1, 0, 0), []string{
			"osaka loan: amount.memory_mib is negative",
		}},
		{"huge", offer("std", res(8, 8192, 80, 4), nil, "*"), "tokyo", res(math.MaxInt, 0, 0, 0), []string{
			fmt.Sprintf("osaka cpu: asks for %d CPUs; offer std lends 8 to all borrowers together, 5 lent, 3 left -> ask for at most 3", math.MaxInt),
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, render(lend.CanBorrow(tc.offer, loans, tc.borrower, tc.amount))); d != "" {
				t.Errorf("reasons (-want +got):\n%s", d)
			}
		})
	}
}

func TestEndedLoanHoldsItsGuests(t *testing.T) {
	o := offer("std", res(4, 4096, 40, 4), nil, "*")
	l := loan("l1", "std", "tokyo", res(4, 4096, 40, 4), api.LoanEnded)
	l.Status.Used = res(1, 512, 1, 0) // not stopped yet
	for left, want := range map[api.Resources]bool{res(3, 3584, 39, 4): true, res(4, 0, 0, 0): false, res(0, 3585, 0, 0): false, res(0, 0, 40, 0): false} {
		if rs := lend.CanBorrow(o, []api.Loan{l}, "kyoto", left); (rs == nil) != want {
			t.Errorf("%+v: %v", left, rs)
		}
	}
}

func TestAdmit(t *testing.T) {
	guests := []api.Guest{
		guest("web1", "l1", res(1, 1024, 10, 0)),
		guest("web2", "l1", res(1, 1024, 10, 0)),
		guest("db1", "l2", res(9, 9999, 99, 9)),
	}
	givenBack := loan("l1", "std", "tokyo", res(4, 4096, 30, 0), api.LoanActive)
	givenBack.Deleting = true
	for _, tc := range []struct {
		name  string
		loan  api.Loan
		needs api.Resources
		want  []string
	}{
		{"fits exactly", loan("l1", "std", "tokyo", res(4, 4096, 30, 0), api.LoanActive), res(2, 2048, 10, 0), nil},
		{"short", loan("l1", "std", "tokyo", res(4, 4096, 30, 0), api.LoanActive), res(3, 2048, 11, 1), []string{
			"osaka cpu: needs 3 CPUs, loan l1 has 2 left -> borrow more, or move a guest of this loan away",
			"osaka disk: needs 11 GiB of disk, loan l1 has 10 left -> borrow more, or move a guest of this loan away",
			"osaka address: needs 1 service addresses, loan l1 has 0 left -> borrow more, or move a guest of this loan away",
		}},
		{"reclaimed and short", loan("l1", "std", "tokyo", res(4, 4096, 30, 0), api.LoanReclaimed), res(3, 0, 0, 0), []string{
			"osaka loan: loan l1 was taken back: it takes no new guest -> borrow anew, or choose another site",
			"osaka cpu: needs 3 CPUs, loan l1 has 2 left -> borrow more, or move a guest of this loan away",
		}},
		{"ended", loan("l1", "std", "tokyo", res(4, 4096, 30, 0), api.LoanEnded), res(1, 0, 0, 0), []string{
			"osaka loan: loan l1 is ended, not active -> borrow anew",
		}},
		{"never granted", loan("l1", "std", "tokyo", res(4, 4096, 30, 0), ""), res(1, 0, 0, 0), []string{
			"osaka loan: loan l1 is not granted, not active -> borrow anew",
		}},
		{"given back", givenBack, res(1, 0, 0, 0), []string{
			"osaka loan: loan l1 is being given back -> borrow anew",
		}},
		{"negative", loan("l1", "std", "tokyo", res(4, 4096, 30, 0), api.LoanActive), res(1, -1, 0, 0), []string{
			"osaka loan: needs.memory_mib is negative",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, render(lend.Admit(tc.loan, guests, tc.needs))); d != "" {
				t.Errorf("reasons (-want +got):\n%s", d)
			}
		})
	}
	// Asked for again, a reservation does not stand in its own way.
	full := loan("l1", "std", "tokyo", res(2, 2048, 20, 0), api.LoanActive)
	if rs := lend.Admit(full, lend.Others(guests, "web1"), res(1, 1024, 10, 0)); rs != nil {
		t.Errorf("the same guest again is refused: %v", rs)
	}
}

func TestLife(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const lease, grace = time.Minute, 10 * time.Second
	l := lend.Grant(loan("l1", "std", "tokyo", res(1, 1, 1, 1), ""), lease, t0)
	l.Status.Used = res(1, 0, 0, 0)
	step := func(at time.Duration, state api.LoanState, moved bool, due time.Duration) {
		t.Helper()
		before := l.Status.Serial
		var got bool
		l, got = lend.Advance(l, grace, t0.Add(at))
		if got != moved || l.Status.State != state || (l.Status.Serial > before) != moved {
			t.Fatalf("at %v: moved %t to %s, serial %d -> %d", at, got, l.Status.State, before, l.Status.Serial)
		}
		if d := l.Status.Expires.Sub(t0); state != api.LoanEnded && d != due {
			t.Fatalf("at %v: due at %v, want %v", at, d, due)
		}
	}
	step(59*time.Second, api.LoanActive, false, time.Minute)
	var err error
	if l, err = lend.Renew(l, lease, t0.Add(59*time.Second)); err != nil {
		t.Fatal(err)
	}
	step(118*time.Second, api.LoanActive, false, 119*time.Second)
	// A clock that was set back does not shorten the lease.
	if l, err = lend.Renew(l, lease, t0); err != nil {
		t.Fatal(err)
	}
	step(118*time.Second, api.LoanActive, false, 119*time.Second)
	// Noticed an hour late: the grace is whole all the same.
	step(time.Hour, api.LoanReclaimed, true, time.Hour+grace)
	if _, err := lend.Renew(l, lease, t0.Add(time.Hour)); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
		t.Fatalf("renewing a reclaimed loan: %v", err)
	}
	again := lend.Reclaim(l, grace, t0.Add(time.Hour+5*time.Second), "once more")
	if d := cmp.Diff(l, again); d != "" {
		t.Fatalf("reclaiming again changed the loan: %s", d)
	}
	step(time.Hour+9*time.Second, api.LoanReclaimed, false, time.Hour+grace)
	step(time.Hour+10*time.Second, api.LoanEnded, true, 0)
	step(2*time.Hour, api.LoanEnded, false, 0)

	// Without guests there is nothing to wait for.
	l = lend.Grant(loan("l1", "std", "tokyo", res(1, 1, 1, 1), ""), lease, t0)
	l = lend.Reclaim(l, grace, t0, "needed at home")
	if l.Status.Message != "needed at home" {
		t.Errorf("message is %q", l.Status.Message)
	}
	step(0, api.LoanEnded, true, 0)
}

// book is what a lender has: what CanBorrow and Admit are judged by, counted anew each time and in another way than they count.
type book struct {
	offer  api.Offer
	loans  []api.Loan
	guests []api.Guest
}

// amounts are the fields of an amount.
func amounts(r api.Resources) [4]int { return [4]int{r.CPUs, r.MemoryMiB, r.DiskGiB, r.Addresses} }

// within tells whether an amount is at most a limit, in every field.
func within(amount [4]int, limit api.Resources) bool {
	for i, most := range amounts(limit) {
		if amount[i] > most {
			return false
		}
	}
	return true
}

func plus(a, b [4]int) [4]int {
	for i := range a {
		a[i] += b[i]
	}
	return a
}

// lent is what loans hold, of all borrowers or of one: their whole amount, and once they have ended what is still used.
func (b book) lent(borrower string) (sum [4]int) {
	for _, l := range b.loans {
		if borrower != "" && l.Spec.Borrower != borrower {
			continue
		}
		held := l.Spec.Amount
		if l.Status.State == api.LoanEnded {
			held = l.Status.Used
		}
		sum = plus(sum, amounts(held))
	}
	return sum
}

// used is what the guests under a loan need.
func (b book) used(loan string) (sum [4]int) {
	for _, g := range b.guests {
		if g.Spec.Loan == loan {
			sum = plus(sum, amounts(g.Spec.Needs))
		}
	}
	return sum
}

// lends tells whether the offer has that much left for a borrower.
func (b book) lends(borrower string, amount api.Resources) bool {
	spec := b.offer.Spec
	return within(plus(b.lent(""), amounts(amount)), spec.LendLimit) &&
		(spec.BorrowLimit == nil || within(plus(b.lent(borrower), amounts(amount)), *spec.BorrowLimit))
}

// broken says where more is lent or used than there is; "" is the law kept.
func (b book) broken() string {
	spec := b.offer.Spec
	if !within(b.lent(""), spec.LendLimit) {
		return fmt.Sprintf("%v is lent of %+v", b.lent(""), spec.LendLimit)
	}
	for _, l := range b.loans {
		if spec.BorrowLimit != nil && !within(b.lent(l.Spec.Borrower), *spec.BorrowLimit) {
			return fmt.Sprintf("%v is lent to %s of %+v", b.lent(l.Spec.Borrower), l.Spec.Borrower, *spec.BorrowLimit)
		}
		if !within(b.used(l.Name), l.Spec.Amount) {
			return fmt.Sprintf("%v is used of loan %s, which is %+v", b.used(l.Name), l.Name, l.Spec.Amount)
		}
	}
	return ""
}

func drawRes(rt *rapid.T, label string, most int) api.Resources {
	n := rapid.IntRange(0, most)
	return res(n.Draw(rt, label+".cpus"), n.Draw(rt, label+".memory"), n.Draw(rt, label+".disk"), n.Draw(rt, label+".addresses"))
}

// TestProperties runs random sequences of what a lender is asked. Safety: the book balances after every step, whatever is
// asked, hostile amounts included. Liveness: a request is granted exactly if it is within what is
// left by another count, what is given back can be lent again, and in the end everything comes home.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		now := t0
		const lease, grace = time.Minute, 30 * time.Second
		o := offer("std", drawRes(rt, "limit", 20), nil, "tokyo", "kyoto")
		if rapid.Bool().Draw(rt, "limited") {
			each, most := drawRes(rt, "borrow", 20), o.Spec.LendLimit
			o.Spec.BorrowLimit = new(res(min(each.CPUs, most.CPUs), min(each.MemoryMiB, most.MemoryMiB), min(each.DiskGiB, most.DiskGiB), min(each.Addresses, most.Addresses)))
		}
		b := book{offer: o}
		n := 0
		name := func() string { n++; return fmt.Sprintf("x%d", n) }
		use := func() {
			for i := range b.loans {
				b.loans[i].Status.Used = lend.Used(b.loans[i].Name, b.guests)
			}
		}
		amount := func(rt *rapid.T) api.Resources {
			r := drawRes(rt, "amount", 12)
			if rapid.IntRange(0, 9).Draw(rt, "hostile") == 0 {
				r.CPUs = rapid.SampledFrom([]int{-1, math.MinInt, math.MaxInt, math.MaxInt - 3}).Draw(rt, "cpus")
			}
			return r
		}
		sane := func(a api.Resources) bool { return a.CPUs < 1<<30 } // larger ones would overflow the count
		pick := func(rt *rapid.T, length int) int {
			if length == 0 {
				rt.Skip("nothing there")
			}
			return rapid.IntRange(0, length-1).Draw(rt, "index")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"borrow": func(rt *rapid.T) {
				who := rapid.SampledFrom([]string{"tokyo", "kyoto", "nagoya", "osaka", ""}).Draw(rt, "borrower")
				a := amount(rt)
				want := who != "" && who != "nagoya" && who != "osaka" && lend.Negative(a) == "" && a != (api.Resources{}) &&
					sane(a) && b.lends(who, a)
				rs := lend.CanBorrow(o, b.loans, who, a)
				if (rs == nil) != want {
					rt.Fatalf("%s asks for %+v, %v is lent of %+v: %v", who, a, b.lent(""), o.Spec, rs)
				}
				if rs == nil {
					b.loans = append(b.loans, lend.Grant(loan(name(), "std", who, a, ""), lease, now))
				}
			},
			"guest": func(rt *rapid.T) {
				i := pick(rt, len(b.loans))
				a := amount(rt)
				l := b.loans[i]
				want := l.Status.State == api.LoanActive && lend.Negative(a) == "" && sane(a) && within(plus(b.used(l.Name), amounts(a)), l.Spec.Amount)
				rs := lend.Admit(l, b.guests, a)
				if (rs == nil) != want {
					rt.Fatalf("%+v into %+v, of which %v is used: %v", a, l, b.used(l.Name), rs)
				}
				if rs == nil {
					b.guests = append(b.guests, guest(name(), l.Name, a))
					use()
				}
			},
			"leave": func(rt *rapid.T) {
				i := pick(rt, len(b.guests))
				b.guests = append(b.guests[:i:i], b.guests[i+1:]...)
				use()
			},
			"renew": func(rt *rapid.T) {
				i := pick(rt, len(b.loans))
				l, err := lend.Renew(b.loans[i], lease, now)
				if (err == nil) != (b.loans[i].Status.State == api.LoanActive) {
					rt.Fatal(err)
				}
				b.loans[i] = l
			},
			"reclaim": func(rt *rapid.T) {
				i := pick(rt, len(b.loans))
				b.loans[i] = lend.Reclaim(b.loans[i], grace, now, "wanted back")
			},
			"time": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(rt, "seconds")) * time.Second)
				for i, l := range b.loans {
					next, moved := lend.Advance(l, grace, now)
					if moved != (next.Status.Serial > l.Status.Serial) || (next.Status.State != l.Status.State) != moved {
						rt.Fatalf("moved %t: %+v -> %+v", moved, l, next)
					}
					b.loans[i] = next
				}
			},
			"": func(rt *rapid.T) {
				if why := b.broken(); why != "" {
					rt.Fatalf("the book does not balance: %s", why)
				}
			},
		})
		// Everything is given back, and the whole offer can be lent again.
		b.guests = nil
		use()
		for i := range b.loans {
			b.loans[i] = lend.Reclaim(b.loans[i], grace, now, "the end")
			b.loans[i], _ = lend.Advance(b.loans[i], grace, now)
			if b.loans[i].Status.State != api.LoanEnded {
				rt.Fatalf("a loan without guests does not end: %+v", b.loans[i])
			}
		}
		all := o.Spec.LendLimit
		if o.Spec.BorrowLimit != nil {
			all = *o.Spec.BorrowLimit
		}
		if all != (api.Resources{}) {
			if rs := lend.CanBorrow(o, b.loans, "kyoto", all); rs != nil {
				rt.Fatalf("what was given back cannot be lent: %v", rs)
			}
		}
	})
}
