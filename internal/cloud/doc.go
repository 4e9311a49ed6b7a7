// Package cloud is the nouns' laws: what a valid spec is, the steps of a migration, the addresses that follow from
// identities, and a site's address plan (Plan).
//
// The Check functions judge single values that other processes write. Package wire makes of them the checks of its
// messages, so that controllers and agents refuse the same.
//
// Everything is a function of its arguments. Errors are *api.Error: CodeInvalid with the field that is wrong
// (spec.memory_mib), CodeExists for what another object has already, CodeConflict for what the object's state forbids. Several
// faults are told at once (api.Faults).
//
// Invariants:
//   - a spec that Validate passes holds nothing that could be more than its kind when it is put into a file or a command: names
//     are DNS labels, addresses are in their canonical form;
//   - a migration's journal goes forward only, and from its commit it is undone only on proof that the target holds
//     nothing;
//   - MAC, EUI64, IPv4For and VNI give the same for the same, at every site;
//   - a plan gives nothing that it would refuse, and never one part twice;
//   - no I/O, no clock, no log.
package cloud
