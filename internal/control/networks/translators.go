package networks

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

func (ns *Networks) ReportTranslator(tx *state.Tx, host string, r *wire.TranslatorReport) error {
	if r == nil {
		if _, err := objects.Get[api.Translator](tx, host); errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return nil
		}
		if err := ns.ReportTranslator(tx, host, &wire.TranslatorReport{}); err != nil { // no address is there any more
			return err
		}
		return objects.Remove(tx, objects.Key(api.KindTranslator, host))
	}
	t := &api.Translator{Meta: ns.NewMeta(host, ""), Spec: api.TranslatorSpec{Host: host}}
	if have, err := objects.Get[api.Translator](tx, host); err == nil {
		t = have
	}
	t.Status = api.TranslatorStatus{Running: r.Running, Mappings: len(r.Mappings), Message: r.Message}
	if err := objects.Put(tx, t); err != nil {
		return err
	}
	refused := map[netip.Addr]string{}
	for _, m := range r.Refused {
		refused[m.Service] = m.Message
	}
	if err := ns.showRefused(tx, ns.Name+"/"+host, refused); err != nil {
		return err
	}
	name := ns.Name + "/" + host
	concerned := map[string]*api.Address{}
	for a := range objects.By[api.Address](tx, "translator", name) {
		concerned[a.Name] = a
	}
	for _, m := range r.Mappings {
		for a := range objects.By[api.Address](tx, "address", m.String()) {
			concerned[a.Name] = a
		}
	}
	for _, a := range slices.SortedFunc(maps.Values(concerned), func(a, b *api.Address) int { return strings.Compare(a.Name, b.Name) }) {
		a = state.Clone(a)
		in := slices.ContainsFunc(r.Mappings, func(m netip.Addr) bool { return m.String() == a.Spec.Address })
		i := slices.Index(a.Status.Translators, name)
		switch {
		case in && r.Running && i < 0:
			a.Status.Translators = append(a.Status.Translators, name)
			slices.Sort(a.Status.Translators)
		case (!in || !r.Running) && i >= 0:
			a.Status.Translators = slices.Delete(a.Status.Translators, i, i+1)
		default:
			continue
		}
		if err := objects.Put(tx, a); err != nil {
			return err
		}
	}
	return nil
}
