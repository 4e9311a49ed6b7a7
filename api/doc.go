// Package api holds the nouns of widecloud as its REST API, its CLI and its importers see them: Site, Host, Owner, User,
// Offer, Loan, Image, Volume, Network, VM, Guest, Address, Translator, Job and Event, the error codes, and a Go client.
//
// Every noun has a Meta, a Spec (what is wanted; written by users) and a Status (what is seen; written by controllers).
// Units are in the names: MiB (2^20 bytes), GiB (2^30 bytes), seconds as Go durations' strings where a person writes
// them and as float64 seconds where a program does.
//
// Invariants:
//   - the package imports the standard library only, so that importing it costs an importer nothing else;
//   - an object has exactly one home site at a time (Meta.Home);
//   - a Revision grows with every acknowledged write of an object and is never used twice at a site.
package api
