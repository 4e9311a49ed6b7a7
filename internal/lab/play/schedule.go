package play

import (
	"cmp"
	"slices"
	"time"

	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// job is what runs at one place: a script on machines of its own, or several, one
// after the other, on those of a base.
type job struct {
	base   *Piece // nil: the script's own machines
	pieces []int  // in the order in which they were said
	load   int    // tenths of a core
	alone  bool
	budget time.Duration
}

// Loads in tenths of a core. An emulated processor keeps a core busy while it boots and
// when it moves; whatever else there is of a script waits most of its time, and so a
// core bears a little of that beside it.
const (
	scriptLoad = 4  // of a script without guests
	guestLoad  = 10 // of each processor of a guest
	core       = 12
)

// usualTime is what a script without a budget may take, for the order.
const usualTime = time.Minute

// load is how much of the cores a script takes.
func load(s *script.Script) int {
	guests := 0
	for _, v := range script.Declared[stage.Emulated](s) {
		guests += v.Processors()
	}
	return max(scriptLoad, guestLoad*guests)
}

// setting is what a script says of itself.
func setting(s *script.Script) stage.Setting {
	if o, ok := script.Has[*stage.Setting](s); ok {
		return *o
	}
	return stage.Setting{}
}

// budget is what a script may take; 0: it has not said.
func budget(s *script.Script) time.Duration {
	b, ok := script.Has[*stage.Budget](s)
	if !ok {
		return 0
	}
	return b.Time
}

// jobs makes jobs of scripts, in the order in which they should begin: the longest
// first, so that none of them is begun when all others have ended, and those that
// want to be alone last.
func jobs(pieces []Piece) []*job {
	var all []*job
	based := map[string]*job{}
	for i, p := range pieces {
		alone := setting(p.Script).Alone
		j := &job{}
		if p.Base != nil && !alone {
			file := p.Base.Script.File
			if based[file] == nil {
				based[file] = &job{base: p.Base}
				all = append(all, based[file])
			}
			j = based[file]
		} else {
			all = append(all, j)
		}
		j.pieces = append(j.pieces, i)
		j.load, j.alone = max(j.load, load(p.Script)), alone
		j.budget += cmp.Or(budget(p.Script), usualTime)
	}
	for _, j := range all {
		if len(j.pieces) == 1 {
			j.base = nil // nobody to share them with
		}
	}
	slices.SortStableFunc(all, func(a, b *job) int {
		if a.alone != b.alone {
			if a.alone {
				return 1
			}
			return -1
		}
		return cmp.Compare(b.budget, a.budget)
	})
	return all
}

// schedule runs jobs beside each other as far as the cores bear it, and whatever they
// take one at a time. beside tells whether others may run at the same time.
func schedule(all []*job, cores int, run func(j *job, beside bool)) {
	var (
		waiting = slices.Clone(all)
		ended   = make(chan *job)
		used    int
		running int
		alone   bool
	)
	fits := func(j *job) bool {
		return running == 0 || !j.alone && !alone && used+j.load <= cores*core
	}
	for len(waiting) > 0 || running > 0 {
		for i := slices.IndexFunc(waiting, fits); i >= 0; i = slices.IndexFunc(waiting, fits) {
			j := waiting[i]
			waiting = slices.Delete(waiting, i, i+1)
			running++
			used += j.load
			alone = j.alone
			go func() {
				run(j, cores > 0 && !j.alone)
				ended <- j
			}()
		}
		j := <-ended
		running--
		used -= j.load
		alone = false
	}
}
