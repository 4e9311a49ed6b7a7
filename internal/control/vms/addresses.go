package vms

import (
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/wire"
)

const (
	// seenGrain is how much newer a sighting must be to be worth a write: reports come every few seconds.
	seenGrain = 5 * time.Minute
	// guestKept is how long an address that a guest has taken by itself is shown after it was seen last.
	guestKept = 2 * time.Hour
)

// sightings brings a VM's addresses up to what a report says that it was seen with. It gives the very same ones if there is no news:
// no address or source that is new, none that is gone, none that was seen seenGrain after what is known. What a guest has taken by
// itself is shown behind what it was given, MaxSeen of it at most.
func sightings(have []api.VMAddress, said wire.VMReport, now time.Time) []api.VMAddress {
	var given, taken []api.VMAddress
	for _, a := range have {
		a.Sources = slices.Clone(a.Sources)
		if a.Origin == api.OriginGuest {
			taken = append(taken, a)
		} else {
			given = append(given, a)
		}
	}
	news := false
	for _, s := range said.Addresses {
		a := addressIn(given, s.Address.String())
		if a == nil {
			a = addressIn(taken, s.Address.String())
		}
		if a == nil {
			taken = append(taken, api.VMAddress{Address: s.Address.String(), Origin: api.OriginGuest})
			a = &taken[len(taken)-1]
		}
		news = seeAddress(a, s, now) || news
	}
	for i := range given { // by older releases, which do not say when
		a := &given[i]
		if !a.Seen && (a.Origin == api.OriginSLAAC && isAddress(said.IPv6Seen, a.Address) || a.Origin == api.OriginDHCP && isAddress(said.IPv4Seen, a.Address)) {
			a.Seen, news = true, true
		}
	}
	kept := len(taken)
	taken = slices.DeleteFunc(taken, func(a api.VMAddress) bool { return now.Sub(lastSeen(a)) > guestKept })
	if len(taken) > wire.MaxSeen {
		slices.SortStableFunc(taken, func(a, b api.VMAddress) int { return lastSeen(b).Compare(lastSeen(a)) })
		taken = taken[:wire.MaxSeen]
	}
	if !news && len(taken) == kept {
		return have
	}
	slices.SortFunc(taken, func(a, b api.VMAddress) int { return strings.Compare(a.Address, b.Address) })
	return append(given, taken...)
}

// seeAddress keeps a sighting of an address, and tells whether it is news.
func seeAddress(a *api.VMAddress, s wire.SeenAddress, now time.Time) (news bool) {
	if refused := s.Refused && a.Origin == api.OriginGuest; a.Refused != refused || !a.Seen {
		a.Refused, a.Seen, news = refused, true, true
	}
	at := now.Add(-time.Duration(s.Age) * time.Second).Truncate(time.Second)
	i := slices.IndexFunc(a.Sources, func(x api.AddressSeen) bool { return x.Source == s.Source })
	if i < 0 {
		a.Sources = append(a.Sources, api.AddressSeen{Source: s.Source, Seen: at})
		slices.SortFunc(a.Sources, func(x, y api.AddressSeen) int { return strings.Compare(string(x.Source), string(y.Source)) })
		return true
	}
	was := &a.Sources[i].Seen
	if at.After(*was) || was.After(now) { // this site's clock may have been set back
		news, *was = news || at.Sub(*was).Abs() >= seenGrain, at
	}
	return news
}

// addressIn finds an address that a VM can be seen with: a service address is no such one.
func addressIn(list []api.VMAddress, text string) *api.VMAddress {
	i := slices.IndexFunc(list, func(a api.VMAddress) bool { return a.Address == text && a.Origin != api.OriginService })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// lastSeen is when any source saw an address last.
func lastSeen(a api.VMAddress) (last time.Time) {
	for _, s := range a.Sources {
		if s.Seen.After(last) {
			last = s.Seen
		}
	}
	return last
}
