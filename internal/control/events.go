package control

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/state"
)

// acted tells of what a user did or asked for, in the transaction that makes it so: "vm.stop", "network.created".
func (c *Controller) acted(tx *state.Tx, verb string, o api.Object, message string) {
	m := o.Metadata()
	owner := m.Owner
	if o.Kind() == api.KindOwner {
		owner = "" // the events of an owner go with it, and this one is to stay
	}
	c.event(tx, strings.ToLower(singular(o.Kind()))+"."+verb, string(o.Kind())+"/"+m.Name, owner, message)
}

// note is acted for what no transaction does: a reboot, a migration that has begun. That it is kept is not certain.
func (c *Controller) note(ctx context.Context, verb string, o api.Object, message string) {
	if err := c.update(ctx, func(tx *state.Tx) error {
		c.acted(tx, verb, o, message)
		return nil
	}); err != nil {
		c.log.Error("keep event", "type", verb, "object", o.Metadata().Name, "err", err)
	}
}

// actedChange tells of a user's change of a spec; nothing when there is none.
func (c *Controller) actedChange(tx *state.Tx, was, now api.Object) {
	verb := "changed"
	if a, ok := was.(*api.VM); ok {
		switch b := now.(*api.VM); {
		case a.Spec.Power == b.Spec.Power:
		case b.Spec.Power == api.PowerOn:
			verb = "start"
		default:
			verb = "stop"
		}
	}
	if text := changesOf(was, now); text != "" {
		c.acted(tx, verb, now, text)
	}
}

// changesOf lists the fields of a spec that differ. Numbers and single words are shown with their values; texts, which may hold
// secrets, are not.
func changesOf(was, now api.Object) string {
	a, b := reflect.ValueOf(was).Elem().FieldByName("Spec"), reflect.ValueOf(now).Elem().FieldByName("Spec")
	if !a.IsValid() || a.Type() != b.Type() {
		return ""
	}
	return strings.Join(fieldChanges(a, b), ", ")
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
		if before, after := shown(x), shown(y); before+after != "" && name != "user_data" {
			text += fmt.Sprintf(": %s -> %s", before, after)
		}
		out = append(out, text)
	}
	return out
}

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

func asUser(ctx context.Context, by access.Actor) context.Context { return state.As(ctx, by.User) }

func asAgent(ctx context.Context, host string) context.Context { return state.As(ctx, "agent:"+host) }

func asPeer(ctx context.Context, site string) context.Context { return state.As(ctx, "peer:"+site) }
