// Package control is a site's controller: it keeps the site's objects, places VMs, lends and borrows, and moves VMs.
// serve is its door to users, wire and fed are those to agents and peers.
//
// Everything that is decided is in the store. Controller.Run looks at the store after every change, and does, one after
// the other, what is to be done; each step can be done again. Long work is a job (jobs.go): a saga of one of the kinds
// (migrate.go, import.go, deletion.go), whose journal is in the store, too, so that a controller that starts goes on where it stands.
//
// What others write is judged here before it has an effect (law 9): objects of users by package cloud and the site's address
// plan (plan.go), views of peers by package netplan, their claims by judge.go, reports of agents by judge_report.go.
//
// Invariants:
//   - the store's write comes before the deed, and before the answer to who asked for it;
//   - past its decision a migration is only repeated, whatever fails; the target's proven "not found" alone leads back;
//   - one job at a time holds an object, which names it (status.job);
//   - work that has begun may use the store's reserve (store.Urgent); new work is refused before that;
//   - what a peer has here follows from its guests, claims and address loans here, and from nothing else: never from its
//     lists. A loan is kept only if it was asked for here;
//   - of what a peer or an agent writes, an entry that is bad is left out, and its writer is told; the others act;
//   - a network is of a pool that is open to its owner, or its home, and so is a service address; neither is over the site's
//     own addresses;
//   - one key speaks for a host's name, until the host is deleted; the session ends with it;
//   - a stream to a user ends with the user, the token, and the right that it was opened with;
//   - what one peer or user makes us keep is bounded.
package control
