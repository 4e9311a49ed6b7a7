package objects

import (
	"widecloud/internal/state"
)

// Placed is a host of a site as an index has it; "" without a host.
func Placed(site, host string) string {
	if host == "" {
		return ""
	}
	return site + "/" + host
}

// Index finds objects by one text; "" is not in the index.
func Index[T any](name string, key func(*T) string) state.Index[T] {
	return state.Index[T]{Name: name, Keys: func(o *T) []string {
		if k := key(o); k != "" {
			return []string{k}
		}
		return nil
	}}
}

// NounTable is the table of a kind of objects.
func NounTable[T any, P noun[T]](indexes ...state.Index[T]) *state.Table[T] {
	return &state.Table[T]{
		Prefix: Key(P(nil).Kind(), ""), Indexes: indexes,
		Revised: func(o *T, revision int64) { P(o).Metadata().Revision = revision },
	}
}

// RecordTable is the table of the controller's own records under a prefix.
func RecordTable[T any](prefix string, indexes ...state.Index[T]) *state.Table[T] {
	return &state.Table[T]{Prefix: prefix, Indexes: indexes}
}
