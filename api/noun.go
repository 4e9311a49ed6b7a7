package api

import "strings"

// Noun describes a kind of object: what the API, the controller and the CLI have to know of it in common.
type Noun struct {
	Kind     Kind
	Singular string        // as people write it: "VM"
	New      func() Object // an empty object
	// What users do with it; all of it is subject to their rights. What none of them does is the site's own to write.
	Created, Changed, Deleted bool
	// Owned: an organisation answers for it. The others belong to the site.
	Owned bool
}

// nouns are all nouns, in the order in which documentation and listings show them.
var nouns = []Noun{
	{Kind: KindSite, New: func() Object { return &Site{} }},
	{Kind: KindHost, New: func() Object { return &Host{} }, Changed: true, Deleted: true},
	{Kind: KindOwner, New: func() Object { return &Owner{} }, Created: true, Changed: true, Deleted: true},
	{Kind: KindUser, New: func() Object { return &User{} }, Created: true, Changed: true, Deleted: true, Owned: true},
	{Kind: KindPeer, New: func() Object { return &Peer{} }, Changed: true, Deleted: true},
	{Kind: KindOffer, New: func() Object { return &Offer{} }, Created: true, Changed: true, Deleted: true},
	{Kind: KindLoan, New: func() Object { return &Loan{} }},
	{Kind: KindImage, New: func() Object { return &Image{} }, Created: true, Changed: true, Deleted: true, Owned: true},
	{Kind: KindVolume, New: func() Object { return &Volume{} }, Owned: true},
	{Kind: KindNetwork, New: func() Object { return &Network{} }, Created: true, Changed: true, Deleted: true, Owned: true},
	{Kind: KindVM, Singular: "VM", New: func() Object { return &VM{} }, Created: true, Changed: true, Deleted: true, Owned: true},
	{Kind: KindGuest, New: func() Object { return &Guest{} }},
	{Kind: KindAddress, Singular: "address", New: func() Object { return &Address{} }, Created: true, Changed: true, Deleted: true, Owned: true},
	{Kind: KindTranslator, New: func() Object { return &Translator{} }},
	{Kind: KindJob, New: func() Object { return &Job{} }, Owned: true},
	{Kind: KindEvent, New: func() Object { return &Event{} }, Owned: true},
}

// Nouns are all nouns, in the order in which documentation and listings show them.
func Nouns() []Noun {
	out := make([]Noun, len(nouns))
	for i, n := range nouns {
		out[i] = n.named()
	}
	return out
}

// NounOf describes a kind. The error is CodeNotFound.
func NounOf(k Kind) (Noun, error) {
	for _, n := range nouns {
		if n.Kind == k {
			return n.named(), nil
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

func (n Noun) named() Noun {
	if n.Singular == "" {
		n.Singular = strings.TrimSuffix(string(n.Kind), "s")
	}
	return n
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
