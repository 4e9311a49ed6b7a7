package state

// Written is what a transaction makes of a key.
type Written struct {
	Key      string
	Was, Now any // the objects before and after it, shared; nil: there is none, or the key is of no table
}

// Written lists what the transaction has written so far, in the order of the keys' first writes.
func (tx *Tx) Written() []Written {
	out := make([]Written, 0, len(tx.order))
	for _, key := range tx.order {
		w := Written{Key: key}
		if raw, err := tx.base.First(tableName(tx.s.tableOf(key).prefix()), indexKey, key); err == nil && raw != nil {
			w.Was = raw.(*row).object
		}
		if r := tx.writes[key].row; r != nil {
			w.Now = r.object
		}
		out = append(out, w)
	}
	return out
}
