package api

import "time"

// KindPeer is the kind of Peer.
const KindPeer Kind = "peers"

var _ = describe[Peer](Noun{
	Rank: 50, Help: "Other sites with which certificates were exchanged.",
	Changed: true, Deleted: true,
	States: []string{"reached", "unreached"},
})

// Peer is another site with which certificates were exchanged.
type Peer struct {
	Meta
	Spec   PeerSpec   `json:"spec"`
	Status PeerStatus `json:"status"`
}

// PeerSpec is what was exchanged once, by hand or by `wcc peer add`.
type PeerSpec struct {
	Endpoint    string `json:"endpoint"`    // host:port of its outside port; empty when only the peer can dial
	Certificate string `json:"certificate"` // PEM of its site CA certificate
	Fingerprint string `json:"fingerprint"` // SHA-256 of the certificate's DER, hex; what people compare by voice
}

// PeerStatus is what is seen of a peer.
type PeerStatus struct {
	Reached bool      `json:"reached"`
	Since   time.Time `json:"since,omitzero"`
	RTT     float64   `json:"rtt_seconds,omitempty"`
	// Answered is when the peer was asked for the newest sign of life that it has given. Reached is true for some seconds after a
	// link was cut: nobody knows yet.
	Answered time.Time `json:"answered,omitzero"`
	Message  string    `json:"message,omitempty"`
	// Bytes per second that cross between this site and the peer now, of control, migrations, images and consoles.
	Sent     float64   `json:"sent_bytes_per_second,omitempty"`
	Received float64   `json:"received_bytes_per_second,omitempty"`
	Location *Location `json:"location,omitempty"` // as the peer says
}

// Kind is KindPeer.
func (*Peer) Kind() Kind { return KindPeer }

func (p *Peer) facets() facets {
	return facets{sites: []string{p.Name}, states: either(p.Status.Reached, "reached", "unreached")}
}
