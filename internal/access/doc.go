// Package access says who may do what to which object, and why not. It judges by what the nouns
// say of themselves (api.Noun: See and Write), and is pure: no store, no clock.
//
// An admin may do everything that is done by hand at all. All others act for the one organisation that their user belongs to.
//
// Invariants:
//   - who may not see an object may not do anything else to it;
//   - nobody changes what another organisation owns, and nobody but admins what the site owns;
//   - a noun that says nothing of its rights is for admins alone.
package access
