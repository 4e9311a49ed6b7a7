package accounts

import (
	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

// endOwner keeps an owner while anything is left of it: whoever gets its name later must not get what was its.
func (ac *Accounts) endOwner(tx *state.Tx, o *api.Owner) error {
	for _, n := range api.Nouns() {
		if !n.Owned {
			continue
		}
		for key, x := range tx.Objects(objects.Key(n.Kind, "")) {
			m := x.(api.Object).Metadata()
			if m.Owner != o.Name {
				continue
			}
			if n.Kind != api.KindJob && n.Kind != api.KindEvent { // those tell of what was its, and go with it
				return objects.InUse(o, "owner", "%s %s", n.Singular, m.Name)
			}
			if j, ok := x.(*api.Job); ok && !j.Status.State.Ended() {
				return objects.InUse(o, "owner", "job %s, which has not ended", m.Name)
			}
			if err := objects.Remove(tx, key); err != nil {
				return err
			}
		}
	}
	return objects.Gone(tx, o)
}

// ownerLife is what users do with owners.
func (ac *Accounts) ownerLife() objects.Life[api.Owner] {
	return objects.Life[api.Owner]{
		Change: objects.Keep[api.Owner], Delete: ac.endOwner,
		Show: func(tx *state.Tx, _ access.Actor, o *api.Owner) (err error) {
			o.Status.Used, err = ac.rooms.UsedBy(tx, o.Name)
			return err
		},
	}
}
