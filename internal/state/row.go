package state

import (
	"bytes"
	"fmt"

	"github.com/hashicorp/go-memdb"

	"widecloud/internal/store"
)

// row is a key as the store has it, with its value decoded. It never changes once it can be read.
type row struct {
	key               string
	value             []byte
	created, modified int64
	object            any // nil: of no table
}

func (r *row) kv() store.KV {
	return store.KV{Key: r.key, Value: bytes.Clone(r.value), Created: r.created, Modified: r.modified}
}

// indexKey is the index by key that go-memdb wants of every table.
const indexKey = "id"

// byKey indexes rows by their keys.
type byKey struct{}

func (byKey) FromArgs(args ...any) ([]byte, error) { return one(args) }

func (byKey) PrefixFromArgs(args ...any) ([]byte, error) {
	b, err := one(args)
	return bytes.TrimSuffix(b, []byte{0}), err
}

func (byKey) FromObject(raw any) (bool, []byte, error) {
	b, err := one([]any{raw.(*row).key})
	return true, b, err
}

// indexer indexes rows by what their objects say.
type indexer func(object any) []string

func (indexer) FromArgs(args ...any) ([]byte, error) { return one(args) }

func (f indexer) FromObject(raw any) (bool, [][]byte, error) {
	var out [][]byte
	for _, key := range f(raw.(*row).object) {
		out = append(out, append([]byte(key), 0))
	}
	return len(out) > 0, out, nil
}

// one is the bytes of an index's only argument. They end with a zero, so that none begins with another one.
func one(args []any) ([]byte, error) {
	if len(args) == 1 {
		if key, ok := args[0].(string); ok {
			return append([]byte(key), 0), nil
		}
	}
	return nil, fmt.Errorf("%v is not one text", args)
}

// database makes the empty memory of a schema.
func database(schema Schema) (*memdb.MemDB, error) {
	s := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}
	for _, d := range append(Schema{plain{}}, schema...) {
		indexes := d.indexes()
		if indexes == nil {
			indexes = map[string]*memdb.IndexSchema{}
		}
		indexes[indexKey] = &memdb.IndexSchema{Name: indexKey, Unique: true, Indexer: byKey{}}
		name := tableName(d.prefix())
		if s.Tables[name] != nil {
			return nil, fmt.Errorf("schema: two tables have the prefix %q", d.prefix())
		}
		s.Tables[name] = &memdb.TableSchema{Name: name, Indexes: indexes}
	}
	db, err := memdb.NewMemDB(s)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return db, nil
}

// tableName is what go-memdb calls the table of a prefix.
func tableName(prefix string) string { return "/" + prefix }
