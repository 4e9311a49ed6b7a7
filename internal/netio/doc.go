// Package netio is the one door to the kernel's network: namespaces, links,
// addresses, routes and sysctls. Nothing else in the module imports netlink,
// netns or x/sys/unix, so everything the kernel is asked to do can be read in
// one folder.
//
// The centre is [NS], an open network namespace with a netlink socket of its
// own. All its methods act inside that namespace whatever namespace the calling
// thread is in; only [NS.Do] and [InProcess] move a thread.
//
// Errors wrap the kernel's errno, so errors.Is(err, fs.ErrNotExist) and
// errors.Is(err, fs.ErrExist) work for links, addresses and routes too (a
// missing link or route is mapped to fs.ErrNotExist).
//
// Invariants:
//   - No function leaves the calling thread in another namespace: it returns
//     where it started, or the thread is destroyed.
//   - IPv6 addresses are added without duplicate address detection: they work
//     as soon as the call returns.
//   - A namespace that gets a bridge does not hand bridged packets to netfilter's
//     IP hooks (bridge-nf-call-*), which would silently drop them where
//     forwarding is off.
//   - Methods are idempotent where "make it so" is meant (SetUp, SetMTU,
//     ReplaceRoute, Sysctl) and fail with fs.ErrExist where "create" is meant.
package netio
