// Package netplan computes what the networks of each host must be: objects in, orders for hosts and views for peers out.
//
// It works one network at a time, so that a change of one VM has one network computed anew:
//
//   - [Site.Own] plans a network of this site, from its VMs, their migrations, the gateways and the service addresses;
//   - [Site.Foreign] plans a peer's network, from the peer's guests here and from what the peer tells of the network;
//   - [Carry] picks, of the peers' networks, those that can be carried together, and the service addresses that are theirs;
//   - [Network.Order] is what one host does for one network; [ForHost] is what it does for all of them;
//   - [ForPeer] is what a peer has to know of this site's networks.
//
// What a host must know to reach the other hosts of a network depends on the network's mobility: see mobility.go. A new
// mobility is a file beside l2.go and an entry in the table there.
//
// The orders are plain data with their JSON: wire carries them as they are.
//
// Invariants:
//   - every function gives the same for the same arguments; nothing that it is given is changed;
//   - what a peer has here follows from its guests, the room kept for them, and its loans of service addresses, and from
//     nothing that it tells: a view fills in what it has, and gives it nothing (law 9);
//   - two networks that are carried at a site share no UID, VNI or prefix; a guest's network comes before one that is
//     carried for service addresses only, and the older one comes first;
//   - of a peer's service addresses no more are translated than it has on loan, each in a pool that is open to it, and
//     none that somebody else uses;
//   - a host's own tunnel end point is in no order for it, and no end point is named twice;
//   - no I/O, no clock, no log.
package netplan
