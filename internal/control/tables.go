package control

import (
	"widecloud/api"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Tables is the schema of a site's state: every kind of object, and the controller's own records, each with what it is found by.
func Tables() state.Schema {
	return state.Schema{
		nounTable(
			index("host", func(v *api.VM) string { return placed(v.Status.Site, v.Status.Host) }),
			index("site", func(v *api.VM) string { return v.Status.Site }),
			index("loan", func(v *api.VM) string { return v.Status.Loan }),
			index("uid", func(v *api.VM) string { return v.UID }),
			index("owner", func(v *api.VM) string { return v.Owner }),
			index("image", func(v *api.VM) string { return v.Spec.Image }),
			index("network", func(v *api.VM) string { return v.Spec.Network }),
			index("todo", vmTodo),
		),
		nounTable(index("vtep", func(h *api.Host) string { return h.Status.VTEP })),
		nounTable[api.Owner](),
		nounTable(index("owner", func(u *api.User) string { return u.Owner })),
		nounTable[api.Peer](),
		nounTable[api.Offer](),
		nounTable(
			index("lender", func(l *api.Loan) string { return l.Spec.Lender }),
			index("borrower", func(l *api.Loan) string { return l.Spec.Borrower }),
		),
		nounTable(index("todo", imageTodo)),
		nounTable[api.Volume](),
		nounTable(index("uid", func(n *api.Network) string { return n.UID })),
		nounTable(index("host", func(g *api.Guest) string { return g.Spec.Host })),
		nounTable(
			index("vm", func(a *api.Address) string { return a.Spec.VM }),
			index("owner", func(a *api.Address) string { return a.Owner }),
			index("address", func(a *api.Address) string { return a.Spec.Address }),
			state.Index[api.Address]{Name: "translator", Keys: func(a *api.Address) []string { return a.Status.Translators }},
		),
		nounTable[api.Translator](),
		nounTable(
			index("owner", func(j *api.Job) string { return j.Owner }),
			index("parent", func(j *api.Job) string { return j.Spec.Parent }),
		),
		nounTable[api.Event](),

		recordTable(prefixMigrations,
			index("target", func(m *migration) string { return m.Target.Loan }),
			index("network", func(m *migration) string { return m.Call.Order.NIC.Network })),
		recordTable[imageImport](prefixImports),
		recordTable(prefixDeletions, index("uid", func(d *deletion) string { return d.UID })),
		recordTable[debris](prefixDebris),
		recordTable(prefixClaims, claimIndexes()...),
		recordTable(prefixOrders, claimIndexes()...),
		recordTable(prefixTokens, index("user", func(t *token) string { return t.User })),
		recordTable[join](prefixJoins),
		recordTable[wire.NetworkView](prefixViews),
		recordTable[loanRequest](prefixRequests),
		recordTable[enrolment](prefixEnrolments),
		recordTable[answer](prefixAnswers),
		recordTable[wire.OfferBody](prefixOffers),
	}
}

// claimIndexes find what is kept here for other VMs, by where it is and by whose it is.
func claimIndexes() []state.Index[wire.Claim] {
	return []state.Index[wire.Claim]{
		index("host", func(c *wire.Claim) string { return c.Host }),
		index("loan", func(c *wire.Claim) string { return c.Loan }),
		index("home", func(c *wire.Claim) string { return c.Home }),
		index("network", func(c *wire.Claim) string { return c.Order.NIC.Network }),
	}
}

// vmTodo is what the reconciler has to do with a VM.
func vmTodo(v *api.VM) string {
	switch {
	case v.Deleting:
		return "end"
	case v.Status.Host == "" && v.Spec.Power == api.PowerOn:
		return "place"
	case v.Status.Host != "" && v.Status.Site != v.Home:
		return "away"
	}
	return ""
}

// imageTodo is what the reconciler has to do with an image.
func imageTodo(i *api.Image) string {
	if toImport(i) {
		return "import"
	}
	return ""
}

// placed is a host of a site as an index has it; "" without a host.
func placed(site, host string) string {
	if host == "" {
		return ""
	}
	return site + "/" + host
}

// index finds objects by one text; "" is not in the index.
func index[T any](name string, key func(*T) string) state.Index[T] {
	return state.Index[T]{Name: name, Keys: func(o *T) []string {
		if k := key(o); k != "" {
			return []string{k}
		}
		return nil
	}}
}

func nounTable[T any, P noun[T]](indexes ...state.Index[T]) *state.Table[T] {
	return &state.Table[T]{
		Prefix: keyOf(P(nil).Kind(), ""), Indexes: indexes,
		Revised: func(o *T, revision int64) { P(o).Metadata().Revision = revision },
	}
}

func recordTable[T any](prefix string, indexes ...state.Index[T]) *state.Table[T] {
	return &state.Table[T]{Prefix: prefix, Indexes: indexes}
}
