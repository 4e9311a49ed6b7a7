// Package volume keeps a machine's disk images: base images, known by the digest of their bytes and never changed, and
// the VMs' disks: one is a qcow2 overlay over a base, others are empty qcow2 images at first. A controller uses it for the
// images that it hands out, an agent for what its VMs run on. The driver so far is a directory (Store); Fetch brings in what a user points at.
//
// An image comes from a user and is opened by a QEMU that can read the host's files, so a base is believed only after
// Inspect, our own strict reading of its header and tables, and qemu-img have both found a plain disk in it. The classic hole
// is an image that names another file of the host (as backing file, as external data file, as an extent) or a "raw" image
// whose first bytes the guest turns into such a header: hence the refusals, and hence an overlay always names its base's
// format, so that nothing is ever probed again. Without a declared format only qcow2 is taken, by its magic: a raw image has
// none, so that any answer of a server could be taken for one, and its content be read by a VM.
//
// Errors about what a user gave are *api.Error with code invalid and the field: spec.source, spec.digest, spec.format,
// spec.size_mib or id. A full disk is ErrNoSpace, with figures.
//
// Invariants:
//   - a base is visible only when it is whole, has its digest, has passed the inspection and is on the disk (fsync);
//     its bytes are those that were given, and it is never written again;
//   - kill -9 or power loss at any moment leaves no half of a base, volume, disk or seed visible; what is left of an interrupted
//     one goes at the next Open;
//   - a base goes only by Sweep: when no volume is over it, no import holds it, and its caller does not want it;
//   - an import has read and hashed all of its bytes, whatever is here already;
//   - an import ends with its context, also while its source blocks, and leaves Options.Reserve of the disk free;
//   - Fetch connects to no address that is not public or permitted, and no error of it has words of the server in it;
//   - nothing outside the directory is written or, but for Fetch within its permitted directories, read: ids and digests
//     are checked against their syntax before they become part of a path;
//   - a volume goes to another host as what its guest would see (Export, Fill): the receiver opens no header that a stranger has
//     written, and a volume is filled as a whole or not at all;
//   - of saved memory that comes from another host only what follows its head is the sender's, and no more than it said;
//   - the saved memory of a VM has its name when it is whole and on the disk, and its seal tells any change of the disks since;
//   - the bytes of a seed depend on its data only, so two hosts make the same.
package volume
