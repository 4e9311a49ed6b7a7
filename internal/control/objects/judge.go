package objects

import (
	"errors"
	"slices"
	"strconv"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/netplan"
	"widecloud/internal/state"
)

// What a peer writes is a stranger's word (law 9). It is held against this site's plan, loans and stores before anything
// follows from it, with the checks that an agent makes of its controller's orders (wire/check.go).

// MaxText is how long a text for people may be that somebody else writes, in bytes.
const MaxText = 500

// FieldOf is the field that an error names, or another one.
func FieldOf(err error, otherwise string) string {
	var e *api.Error
	if errors.As(err, &e) && e.Field != "" {
		return e.Field
	}
	return otherwise
}

// Judge holds what peers and agents tell of hosts and networks against this site's address plan.
func (st *Site) Judge() netplan.Judge {
	return netplan.Judge{Plan: st.Plan, AnycastVTEP: st.AnycastVTEP}
}

// SitesKnown finds the sites of a list that are neither this site, nor a peer, nor in had.
func (st *Site) SitesKnown(tx *state.Tx, field string, sites, had []string) (faults []*api.Error) {
	for i, name := range sites {
		if name != st.Name && !slices.Contains(had, name) {
			if _, err := Get[api.Peer](tx, name); err != nil && cloud.ValidateName("", name) == nil {
				faults = append(faults, api.Invalidf(field+"["+strconv.Itoa(i)+"]", "no site is called %q; wcc site list shows them", name))
			}
		}
	}
	return faults
}
