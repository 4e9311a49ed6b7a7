package koshien_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/internal/lab/topic/koshien"
	"widecloud/internal/sentry/viewer"
)

var begin = time.Unix(1_300_000_000, 0)

// seen is still n, which was taken n seconds after the beginning, and came some milliseconds after it was taken.
func seen(n uint64, delay int, server string) viewer.Seen {
	taken := begin.Add(time.Duration(n) * time.Second)
	return viewer.Seen{Number: n, Taken: taken, At: taken.Add(time.Duration(delay) * time.Millisecond), Bytes: 1000, Server: server}
}

func TestCount(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	at := func(n int) time.Time { return begin.Add(ms(n)) }
	for _, c := range []struct {
		name  string
		seen  []viewer.Seen
		reset int // measured from here on, after the first still; ms
		end   int // ms
		want  koshien.Count
	}{
		{"all on time", []viewer.Seen{seen(1, 100, "a"), seen(2, 200, "a"), seen(3, 100, "a")}, 1500, 3500,
			koshien.Count{Since: at(1500), Stills: 2, Freeze: ms(900), Bytes: 2000, Delays: []time.Duration{ms(200), ms(100)}}},
		{"two lost", []viewer.Seen{seen(1, 100, "a"), seen(4, 100, "a")}, 1500, 4200,
			koshien.Count{Since: at(1500), Stills: 1, Lost: 2, Freeze: ms(2600), Bytes: 1000, Delays: []time.Duration{ms(100)}}},
		{"late", []viewer.Seen{seen(1, 100, "a"), seen(2, 1000, "a"), seen(3, 1001, "a")}, 1500, 4100,
			koshien.Count{Since: at(1500), Stills: 2, Late: 1, Freeze: ms(1500), Bytes: 2000, Delays: []time.Duration{ms(1000), ms(1001)}}},
		{"late after a lost one", []viewer.Seen{seen(1, 100, "a"), seen(3, 1500, "a")}, 1500, 4600,
			koshien.Count{Since: at(1500), Stills: 1, Lost: 1, Late: 1, Freeze: ms(3000), Bytes: 1000, Delays: []time.Duration{ms(1500)}}},
		{"nothing comes any more", []viewer.Seen{seen(1, 100, "a"), seen(2, 100, "a")}, 1500, 9000,
			koshien.Count{Since: at(1500), Stills: 1, Freeze: ms(6900), Bytes: 1000, Delays: []time.Duration{ms(100)}}},
		{"nothing came in the window", []viewer.Seen{seen(1, 100, "a")}, 1500, 9000, koshien.Count{Since: at(1500), Freeze: ms(7500)}},
		{"another server", []viewer.Seen{seen(1, 100, "a"), seen(2, 100, "b"), seen(3, 100, "b")}, 1500, 3100,
			koshien.Count{Since: at(1500), Stills: 2, Moved: 1, Freeze: ms(1000), Bytes: 2000, Delays: []time.Duration{ms(100), ms(100)}}},
		{"the sender began anew", []viewer.Seen{seen(7, 100, "a"), {Number: 1, Taken: at(9000), At: at(9100), Bytes: 1000, Server: "a"}}, 7500, 9200,
			koshien.Count{Since: at(7500), Stills: 1, Freeze: ms(1600), Bytes: 1000, Delays: []time.Duration{ms(100)}}},
	} {
		var n koshien.Count
		for i, s := range c.seen {
			if i == 1 {
				n.Reset(at(c.reset))
			}
			n.See(s)
		}
		if len(c.seen) == 1 {
			n.Reset(at(c.reset))
		}
		if d := cmp.Diff(c.want, n.At(at(c.end)), cmpopts.IgnoreUnexported(koshien.Count{})); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}
