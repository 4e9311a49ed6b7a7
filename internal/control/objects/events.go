package objects

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/state"
)

// Event tells people of something, in the transaction that makes it so. Its actor is the transaction's.
func (st *Site) Event(tx *state.Tx, typ, object, owner, message string) {
	e := &api.Event{
		// Names are in the order of the events, of those of one millisecond, too.
		Meta: st.NewMeta(fmt.Sprintf("%016x-%04x-%s", st.Now().UnixMilli(), uint16(st.events.Add(1)), st.ShortID()), owner),
		Time: st.Now(), Type: typ, Object: object, Actor: tx.Actor(), Message: message,
	}
	if err := Put(tx, e); err != nil {
		st.Log.Error("keep event", "type", typ, "err", err)
	}
}

// Acted tells of what a user did or asked for, in the transaction that makes it so: "vm.stop", "network.created".
func (st *Site) Acted(tx *state.Tx, verb string, o api.Object, message string) {
	m := o.Metadata()
	owner := m.Owner
	if o.Kind() == api.KindOwner {
		owner = "" // the events of an owner go with it, and this one is to stay
	}
	st.Event(tx, strings.ToLower(o.Kind().Singular())+"."+verb, string(o.Kind())+"/"+m.Name, owner, message)
}

// Note is acted for what no transaction does: a reboot, a migration that has begun. That it is kept is not certain.
func (st *Site) Note(ctx context.Context, verb string, o api.Object, message string) {
	if err := st.Write(ctx, func(tx *state.Tx) error {
		st.Acted(tx, verb, o, message)
		return nil
	}); err != nil {
		st.Log.Error("keep event", "type", verb, "object", o.Metadata().Name, "err", err)
	}
}

// actedChange tells of a user's change of a spec; nothing when there is none.
func (st *Site) actedChange(tx *state.Tx, was, now api.Object) {
	verb := "changed"
	if a, ok := was.(*api.VM); ok {
		switch b := now.(*api.VM); {
		case a.Spec.Power == b.Spec.Power:
		case b.Spec.Power == api.PowerOn && (a.Spec.Power == api.PowerSuspended || a.Spec.Power == api.PowerHibernated):
			verb = "resume"
		case b.Spec.Power == api.PowerOn:
			verb = "start"
		case b.Spec.Power == api.PowerSuspended:
			verb = "suspend"
		case b.Spec.Power == api.PowerHibernated:
			verb = "hibernate"
		default:
			verb = "stop"
		}
	}
	if text := changesOf(was, now); text != "" {
		st.Acted(tx, verb, now, text)
	}
}

// changesOf lists the fields of a spec that differ. Numbers and single words are shown with their values; texts, which may hold
// secrets, are not.
func changesOf(was, now api.Object) string { return strings.Join(specChanges(was, now), ", ") }

func specChanges(was, now api.Object) []string {
	a, b := reflect.ValueOf(was).Elem().FieldByName("Spec"), reflect.ValueOf(now).Elem().FieldByName("Spec")
	if !a.IsValid() || a.Type() != b.Type() {
		return nil
	}
	return fieldChanges(a, b)
}

func fieldChanges(a, b reflect.Value) (out []string) {
	for i := range a.NumField() {
		x, y := a.Field(i), b.Field(i)
		if a.Type().Field(i).Anonymous {
			out = append(out, fieldChanges(x, y)...)
			continue
		}
		if reflect.DeepEqual(x.Interface(), y.Interface()) {
			continue
		}
		name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("json"), ",")
		text := "spec." + name
		if before, after := shown(x), shown(y); before+after != "" && !secretive[name] {
			text += fmt.Sprintf(": %s -> %s", before, after)
		}
		out = append(out, text)
	}
	return out
}

// secretive are the fields whose values may hold secrets: a script, a URL with a password.
var secretive = map[string]bool{"user_data": true, "source": true}

// shown is a value in one short word; "" for what has none.
func shown(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64, reflect.Float64:
		return fmt.Sprint(v.Interface())
	case reflect.String:
		if s := v.String(); len(s) <= 60 {
			return s
		}
	}
	return ""
}

// Whoever writes is named in its transaction (state.As): a user by its name, an agent and a peer with what they are before it, which
// no user's name has. What a controller does by itself is nobody's.

// AsUser marks the writes of ctx as a user's.
func AsUser(ctx context.Context, by access.Actor) context.Context { return state.As(ctx, by.User) }

// AsAgent marks the writes of ctx as those of a host's agent.
func AsAgent(ctx context.Context, host string) context.Context { return state.As(ctx, "agent:"+host) }

// AsPeer marks the writes of ctx as a peer's.
func AsPeer(ctx context.Context, site string) context.Context { return state.As(ctx, "peer:"+site) }

// BySite is what a site's controller is called where it has begun something by itself.
func BySite(site string) string { return "site:" + site }
