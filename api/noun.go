package api

import (
	"cmp"
	"slices"
	"strings"
)

// Noun describes a kind of object: what the API, the controller and the CLI have to know of it in common. Each noun has a file of this
// package: its Kind, its description, its type.
type Noun struct {
	Kind     Kind
	Rank     int           // its place in documentation and listings, which show the lowest first; no two nouns have the same
	Singular string        // as people write it: "VM"
	Help     string        // what it is, in the one line that the CLI has for it
	New      func() Object // an empty object
	// What users do with it; all of it is subject to their rights. What none of them does is the site's own to write.
	Created, Changed, Deleted bool
	// Owned: an organisation answers for it. The others belong to the site.
	Owned bool
	// See says who may see an object, Write who may create, change and delete one, as far as that is done at all. Admins may both.
	See, Write Who
	// States are those by which it can be selected.
	States []string
	// Listing and Event make empty answers of a list and of a watch: *Listing[T], *WatchEvent[T].
	Listing, Event func() any

	calls calls
}

// Who is a set of users, as seen from an object. Admins are in each.
type Who int

// The sets of users.
const (
	OnlyAdmins    Who = iota // nobody else
	ItsOwner                 // those who act for the object's owner
	ItsOwnerOrAll            // the same; an object of the site's own is for all
	ItsUser                  // the user that the object is
	ItsMembers               // those who act for the owner that the object is
	Everybody                // all users
	ItsAudience              // those whom the object is for, by its method IsFor
)

// nouns are all nouns, by their ranks.
var nouns []Noun

// describe adds a noun. It fills in what follows from the type.
func describe[T any, P object[T]](n Noun) Noun {
	n.Kind = kindOf[T, P]()
	n.New = func() Object { return P(new(T)) }
	n.Listing = func() any { return new(Listing[T]) }
	n.Event = func() any { return new(WatchEvent[T]) }
	n.Singular = cmp.Or(n.Singular, strings.TrimSuffix(string(n.Kind), "s"))
	n.calls = callsOf[T, P]{}
	nouns = append(nouns, n)
	slices.SortFunc(nouns, func(a, b Noun) int { return cmp.Compare(a.Rank, b.Rank) })
	return n
}

// Nouns are all nouns, in the order in which documentation and listings show them.
func Nouns() []Noun { return slices.Clone(nouns) }

// NounOf describes a kind. The error is CodeNotFound.
func NounOf(k Kind) (Noun, error) {
	for _, n := range nouns {
		if n.Kind == k {
			return n, nil
		}
	}
	return Noun{}, Errorf(CodeNotFound, "no kind of object is called %q", k)
}

// NewObject makes an empty object of a kind; nil for a kind that there is not.
func NewObject(k Kind) Object {
	n, err := NounOf(k)
	if err != nil {
		return nil
	}
	return n.New()
}

// Kinds are all kinds.
func Kinds() []Kind {
	out := make([]Kind, len(nouns))
	for i, n := range nouns {
		out[i] = n.Kind
	}
	return out
}

// Singular is a kind as people write it of one object.
func (k Kind) Singular() string {
	n, err := NounOf(k)
	if err != nil {
		return string(k)
	}
	return n.Singular
}
