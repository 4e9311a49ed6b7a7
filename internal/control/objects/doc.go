// Package objects is the ground that the packages of a site's controller stand on: the site's objects and records, what users do with
// each kind of them, and the work that goes on beside requests.
//
//   - Find, Each, By and Records give shared objects, Get, List and Record copies to change; Put and PutRecord write.
//   - A kind's Life says what its creation, change, deletion and reading mean at this site. Get, List, Create, Update and Delete of Site
//     do the rest, the same for all kinds: who may, what is wrong with the object, whether its name is free, its revision, the event.
//   - Once and Go run work in the background, Poke and WhenChanged wake whoever waits for a change.
//
// Each package of a noun keeps what is its own. What several of them read is here: claims, migrations, debris (records.go).
//
// Invariants:
//   - what a user writes is judged in the transaction that writes it;
//   - every transaction knows on whose account it writes (AsUser, AsAgent, AsPeer), and so does each event;
//   - a shared object is never changed;
//   - a request with a key takes effect once (answers.go).
package objects
