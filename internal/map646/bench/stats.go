package main

import (
	"math"
	"slices"
)

// summary is a median with its quartiles.
type summary struct {
	Median, Low, High float64
	N                 int
}

func summarize(values []float64) summary {
	return summary{percentile(values, .5), percentile(values, .25), percentile(values, .75), len(values)}
}

// key names a series of samples.
type key struct{ Path, Load string }

func (k key) String() string { return k.Path + "." + k.Load }

// book holds what was measured: of each series, one value a round.
type book struct {
	samples map[key]map[int]float64
}

func newBook() *book { return &book{samples: map[key]map[int]float64{}} }

func (b *book) add(k key, round int, value float64) {
	if b.samples[k] == nil {
		b.samples[k] = map[int]float64{}
	}
	b.samples[k][round] = value
}

// values are a series' samples in the order of rounds.
func (b *book) values(k key) []float64 {
	var out []float64
	rounds := make([]int, 0, len(b.samples[k]))
	for r := range b.samples[k] {
		rounds = append(rounds, r)
	}
	slices.Sort(rounds)
	for _, r := range rounds {
		out = append(out, b.samples[k][r])
	}
	return out
}

func (b *book) summary(k key) summary { return summarize(b.values(k)) }

// ratio compares two series round by round: what the machine did in the
// meantime has then touched both. Rounds that lack one of them do not count.
func (b *book) ratio(k, base key) summary {
	var out []float64
	for round, v := range b.samples[k] {
		if w, ok := b.samples[base][round]; ok && w != 0 {
			out = append(out, v/w)
		}
	}
	return summarize(out)
}

// difference is like ratio, of v - w.
func (b *book) difference(k, base key) summary {
	var out []float64
	for round, v := range b.samples[k] {
		if w, ok := b.samples[base][round]; ok {
			out = append(out, v-w)
		}
	}
	return summarize(out)
}

func (b *book) has(k key) bool { return len(b.samples[k]) > 0 }

// sequence is the order in which n things are done in a round: to and fro, so
// that what drifts favours none, and each time another one is the first to go and
// the last to come, who goes twice in a row.
func sequence(n, round int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = (round/2 + i) % n
	}
	if round%2 == 1 {
		slices.Reverse(out)
	}
	return out
}

// zeroLoss finds by bisection (RFC 8219 §7.1, RFC 2544 §26.1) the highest rate,
// in packets a second, at which a trial loses nothing, to within step (a share of
// the rate). A trial says whether all came; it is tried once more if not, since a
// pause of the machine is not the device's fault. limit is the first rate tried.
// It returns 0 if no rate of at least low came through.
func zeroLoss(low, limit, step float64, trial func(rate float64) (bool, error)) (float64, error) {
	once := func(rate float64) (bool, error) {
		ok, err := trial(rate)
		if err != nil || ok {
			return ok, err
		}
		return trial(rate)
	}
	good, bad := 0.0, limit
	if ok, err := once(limit); err != nil {
		return 0, err
	} else if ok {
		return limit, nil
	}
	for bad > low && (good == 0 || bad-good > step*bad) {
		rate := (good + bad) / 2
		if good == 0 {
			rate = math.Sqrt(low * bad) // orders of magnitude first
			if rate > bad*(1-step) {
				rate = low
			}
		}
		ok, err := once(rate)
		if err != nil {
			return 0, err
		}
		switch {
		case ok:
			good = rate
		case rate <= low:
			return 0, nil
		default:
			bad = rate
		}
	}
	return good, nil
}
