// Package vm has the statements about VMs, their images and networks, and their
// migrations. What they do is done as a user would, by the public API of the owner's
// site.
//
// Invariants:
//   - Where a VM runs is asked of every hypervisor; the home's controller must then
//     say the same.
//   - A VM's data is checked by what was read back from its disk.
package vm
