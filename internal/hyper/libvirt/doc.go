// Package libvirt drives QEMU by way of a libvirtd on the same host. It is the only importer of go-libvirt.
//
// Domains are transient and made of a fixed document (xml.go): virtio everywhere, PCI slots given, no USB, no ROMs, no balloon.
// Migration is libvirt's protocol of five calls, made here instead of by libvirt's client library, with memory and disks going
// through unix sockets: libvirtd opens no port, and the caller's connections are the only way to the other host.
//
// What was found out on libvirt 9.0 and QEMU 7.2, and is held by the conformance suite and the tests here:
//   - The source's agent dies in mid-copy: its sockets go with it, so QEMU's streams break; libvirtd fails the job on its
//     own and the guest, which never stopped, runs on. The job is gone without anybody's Confirm.
//   - The source's agent dies after the copy: libvirtd cannot know whether the target runs, gives up the job and leaves the
//     guest paused (QEMU is in state postmigrate). Resume works: QEMU takes its disks back on "cont".
//   - The target's agent dies before Finish: libvirtd destroys the incoming domain as soon as it sees the link closed.
//     After Finish the domain is nobody's and runs on.
//   - The target's libvirtd dies before Finish: QEMU's incoming process outlives it, paused, and the next libvirtd destroys
//     it when it finds it; in mid-copy the source goes on copying until that, then fails and runs on.
//   - The source's libvirtd dies in mid-copy: the next one cancels the migration it finds, the guest runs on. MigratePerform
//     returns ErrUnreachable; it returns ErrParted when there is no libvirtd to ask within the driver's patience.
//   - With change protection libvirt's job lasts from Begin to Confirm; a Perform that failed is therefore followed by
//     Confirm (cancelled) at once, so that the next migration can begin.
//   - Perform returns only when the target has loaded all memory: libvirt turns QEMU's return path on, and the guest stays
//     paused at the source until the target's word comes. A cancel then still works.
//   - drive-mirror works in clusters of 64 KiB: a guest that rewrites one byte in each of n clusters a second needs n times
//     64 KiB/s of line, or the disk never converges.
//   - A disk that is full at the target fails the mirror job at the source with ENOSPC; the guest does not notice.
//   - libvirtd waits for tens of seconds, with the domain locked, for a QEMU that is dead but not reaped: the first process of a
//     container must reap.
//
// Invariants:
//   - no call but MigratePerform outlives its context, whatever libvirtd does; the price is the link that it was on;
//   - a migration's link is never shared, and closing it can destroy only a domain that is incoming;
//   - of what the other end of a migration sends only its machine type, checked, and libvirt's cookie reach libvirtd;
//   - of a saved domain that comes from another host only its machine type, checked, and QEMU's stream get into a file that libvirtd
//     reads: its head is made here, of this host's spec;
//   - no domain is started, resumed or finished but by the call for it; when MigratePerform undoes itself it resumes the
//     source only, whose target cannot have been told to finish.
package libvirt
