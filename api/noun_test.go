package api_test

import (
	"slices"
	"testing"

	"widecloud/api"
)

// TestNouns: the nouns stand in the order of their ranks, no two have the same kind or rank, and each has what lists, watches and the CLI
// need of it.
func TestNouns(t *testing.T) {
	nouns := api.Nouns()
	if !slices.IsSortedFunc(nouns, func(a, b api.Noun) int { return a.Rank - b.Rank }) {
		t.Errorf("the nouns are not in the order of their ranks")
	}
	kinds, ranks := map[api.Kind]bool{}, map[int]api.Kind{}
	for _, n := range nouns {
		if kinds[n.Kind] {
			t.Errorf("%s are described twice", n.Kind)
		}
		kinds[n.Kind] = true
		if other, taken := ranks[n.Rank]; taken || n.Rank <= 0 {
			t.Errorf("%s have the rank %d, which is that of %q", n.Kind, n.Rank, other)
		}
		ranks[n.Rank] = n.Kind
		if o := n.New(); o.Kind() != n.Kind {
			t.Errorf("the objects of %s are of the kind %s", n.Kind, o.Kind())
		}
		if n.Help == "" || n.Singular == "" || n.Listing() == nil || n.Event() == nil {
			t.Errorf("%s are not described whole: %+v", n.Kind, n)
		}
		if have, err := api.NounOf(n.Kind); err != nil || have.Rank != n.Rank {
			t.Errorf("NounOf(%s) is that of %s: %v", n.Kind, have.Kind, err)
		}
		if n.Write != api.OnlyAdmins && !n.Owned {
			t.Errorf("%s are written by their owners, and have none", n.Kind)
		}
	}
}
