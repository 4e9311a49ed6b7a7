package cast

// Outcome is what became of a datagram at a receiver.
type Outcome int

// The outcomes. Up to Forged nothing about the datagram is proven; after that it is a key holder's.
const (
	Short     Outcome = iota // too short or too long
	Foreign                  // another protocol, version or key
	Old                      // of a session that a newer one has replaced
	Future                   // of a session that begins too far ahead of this clock
	Replayed                 // seen before, or too old to know
	Forged                   // not made with the key
	Malformed                // a description that is out of bounds or contradicts the still's other shards
	Stale                    // of a still taken too long ago, or too far ahead of this clock
	Late                     // of a still older than the newest one delivered
	Crowded                  // no room: too many streams, or more than the memory given
	Surplus                  // not needed: enough shards have arrived
	Used                     // it helped
	outcomes
)

var outcomeNames = [outcomes]string{"short", "foreign", "old", "future", "replayed", "forged", "malformed", "stale", "late", "crowded",
	"surplus", "used"}

// Outcomes lists all outcomes.
func Outcomes() (all []Outcome) {
	for o := range outcomes {
		all = append(all, o)
	}
	return all
}

// String is the outcome's name, for logs and metrics.
func (o Outcome) String() string { return outcomeNames[o] }

// Counts counts datagrams by outcome.
type Counts [outcomes]uint64

// Total is the number of datagrams.
func (c *Counts) Total() (n uint64) {
	for _, v := range c {
		n += v
	}
	return n
}
