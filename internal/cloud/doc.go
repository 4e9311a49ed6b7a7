// Package cloud is the nouns' laws: what a valid spec is, which phases follow which, which epoch an order must have, the
// steps of a migration, the addresses and device names that follow from identities, and a site's address plan (Plan).
//
// The Check functions judge single values that other processes write. Package wire makes of them the checks of its
// messages, so that controllers and agents refuse the same.
//
// Everything is a function of its arguments. Errors are *api.Error: CodeInvalid with the field that is wrong
// (spec.memory_mib), CodeExists for what another object has already, CodeConflict for what the object's state forbids,
// CodeStale for an epoch that is no longer the newest.
//
// Invariants:
//   - a spec that Validate passes holds nothing that could be more than its kind when it is put into a file, a command or
//     a device name: names are DNS labels, addresses are in their canonical form;
//   - a VM's epoch never goes down: an order below the highest epoch seen is refused (law 2);
//   - a migration's journal goes forward only, and from its commit it is undone only on proof that the target holds
//     nothing;
//   - MAC, EUI64, IPv4For, VNI and DeviceName give the same for the same, at every site;
//   - a plan gives nothing that it would refuse, and never one part twice;
//   - no I/O, no clock, no log.
package cloud
