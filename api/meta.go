package api

import "time"

// Kind names a noun as the API's paths, the store's keys and the CLI's groups do (plural, lower case).
type Kind string

// Meta identifies an object and says where its home is.
type Meta struct {
	// Name is unique among the objects of its kind at its home site: a DNS label of at most 40 characters (RFC 1123 §2.1).
	Name string `json:"name"`
	// UID is given once, at creation, and never used again: a random UUID (RFC 9562 §5.4).
	UID string `json:"uid,omitempty"`
	// Owner is the organisation that answers for the object. Empty for what belongs to the site itself.
	Owner string `json:"owner,omitempty"`
	// Home is the site whose store holds the object.
	Home string `json:"home,omitempty"`
	// Labels are its users' own words for it: lists and watches select by them, and nothing else reads them. In a change, nil
	// keeps what there is and an empty map removes all.
	Labels map[string]string `json:"labels,omitzero"`
	// Revision is the store's revision of the object's last write. A write that states one is refused with
	// CodeConflict when the object has moved on; zero means "whatever it is now".
	Revision int64 `json:"revision,omitempty"`
	// Created is the home controller's time of creation (UTC).
	Created time.Time `json:"created,omitzero"`
	// Deleting is true from the acceptance of a deletion until what the object stood for is gone.
	Deleting bool `json:"deleting,omitempty"`
}

// Object is what every noun can do: show its Meta and name its Kind.
type Object interface {
	Metadata() *Meta
	Kind() Kind
}

// Metadata returns the object's Meta for reading and writing.
func (m *Meta) Metadata() *Meta { return m }

// Resources is an amount of what can be lent. Zero of a field means none of it.
type Resources struct {
	CPUs      int `json:"cpus"`       // virtual CPUs
	MemoryMiB int `json:"memory_mib"` // guest memory, MiB
	DiskGiB   int `json:"disk_gib"`   // virtual disk size, GiB
	Addresses int `json:"addresses"`  // public service addresses
}

// Reason says why something was refused, so that a person can act on it (law 8).
type Reason struct {
	Site    string `json:"site,omitempty"`
	Host    string `json:"host,omitempty"`
	Field   string `json:"field,omitempty" since:"1"` // of the request, when the reason is about one
	Code    string `json:"code"`                      // a stable word: cpu, memory, disk, loan, permit, network, image, hypervisor, unreachable, …
	Message string `json:"message"`                   // what is wrong, with figures
	Advice  string `json:"advice,omitempty"`          // what to do about it
}

// Seconds is a length of time in seconds, as it stands in documents.
type Seconds float64

// Duration is s as a time.Duration.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }
