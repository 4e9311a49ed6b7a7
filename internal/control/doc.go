// Package control is a site's controller: it keeps the site's objects, places VMs, lends and borrows, and moves VMs. serve is its door to
// users, wire and fed are those to agents and peers.
//
// Each noun's life is a package of its own: vms, networks (with service addresses), images, hosts, guests, lending (offers and loans),
// accounts (owners and users), joining (how hosts and peers come and go). They stand on objects, and on what several of them need: rooms
// (how much is free), orders (what agents and lenders are told), jobs (long work), watch (what users are told). Here they are put together:
// New makes them, Run has them do what is to be done, Handler and api.go pass on what is asked for.
//
// Everything that is decided is in the store. Run looks at the store after every change, and does, one after the other, what is to be
// done; each step can be done again. So a controller that starts goes on where its predecessor stood.
//
// What others write is judged before it has an effect (law 9): objects of users by package cloud and by the life of their kind, views of
// peers, their claims and loans, and reports of agents by the package that takes them (judge.go there).
//
// Invariants, beside those of its packages:
//   - the store's write comes before the deed, and before the answer to who asked for it;
//   - one job at a time holds an object, which names it (status.job);
//   - work that has begun may use the store's reserve (store.Urgent); new work is refused before that;
//   - of what a peer or an agent writes, an entry that is bad is left out, and its writer is told; the others act;
//   - what one peer or user makes us keep is bounded.
package control
