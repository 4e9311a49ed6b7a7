package api

import "time"

// KindSite is the kind of Site.
const KindSite Kind = "sites"

var _ = describe[Site](Noun{
	Rank: 10, Help: "Sites of the federation, as this one knows them.",
	See:    Everybody,
	States: []string{"reached", "unreached"},
})

// Site is one organisation's part of the federation, as this site knows it. A site lists itself and its peers.
type Site struct {
	Meta
	Spec   SiteSpec   `json:"spec"`
	Status SiteStatus `json:"status"`
}

// SiteSpec is what a site says of itself.
type SiteSpec struct {
	Endpoint string        `json:"endpoint"`           // host:port of the site's one outside port
	Location *Location     `json:"location,omitempty"` // as the site says; missing: it does not
	Pools    []AddressPool `json:"pools,omitempty"`    // own site only: the parts of its address plan that the reader may use
}

// AddressPool is a part of a site's address plan. It is set in the site's configuration.
type AddressPool struct {
	Name     string   `json:"name"`
	Use      string   `json:"use"` // networks or addresses
	Prefixes []string `json:"prefixes"`
	Except   []string `json:"except,omitempty"` // inside of Prefixes, and never given
	Owners   []string `json:"owners,omitempty"` // * is all of the site's
	Peers    []string `json:"peers,omitempty"`  // * is every peer
}

// SiteStatus is what is seen of a site.
type SiteStatus struct {
	Self    bool      `json:"self"`
	Reached bool      `json:"reached"`        // a control session is up now
	Since   time.Time `json:"since,omitzero"` // of the last change of Reached
	RTT     float64   `json:"rtt_seconds,omitempty"`
	// Bytes per second that cross between this site and the peer now, of control, migrations, images and consoles.
	Sent     float64   `json:"sent_bytes_per_second,omitempty"`
	Received float64   `json:"received_bytes_per_second,omitempty"`
	Hosts    int       `json:"hosts"` // own site only
	Free     Resources `json:"free"`  // own site: not allotted; a peer: what is left of its loans to us
	Message  string    `json:"message,omitempty"`
}

// Kind is KindSite.
func (*Site) Kind() Kind { return KindSite }

func (s *Site) facets() facets {
	return facets{sites: []string{s.Name}, states: either(s.Status.Self || s.Status.Reached, "reached", "unreached")}
}
