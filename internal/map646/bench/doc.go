// Command bench measures what a packet costs on its way through map646, beside
// plain IPv4 and IPv6 forwarding and TAYGA, in one run.
//
// Each path (ipv6, ipv4, tun, fast, stack, full, fast66, stack66, full66, tayga) has a
// world of its own: three network namespaces (client, translator, server) joined by
// two cables, the same for all paths, so that nothing that one path needs in the
// kernel (policy rules, hooks) is paid for by another. They are
// made anew for each round, those with a big table for each third. A load is measured on
// every path, one after the other, and the next round goes through the paths in the reverse
// order. TCP streams last for a round, and paths take turns of a tenth of a second on
// them: what a stream costs changes within seconds, and one sample each of streams of
// their own gave medians that differed by 0.15 between runs. Small packets come in turns
// of a fifth of a second, round trips in ten turns a round. A ratio is that of two
// samples of the same round; what is reported is the median of the rounds' ratios and
// their quartiles.
//
// The cost is CPU time of the whole path: that of a cgroup in which client,
// server and translator run. The kernel charges a softirq to the task that it
// interrupts (IRQ_TIME_ACCOUNTING being off), and the path's softirqs run where
// a task sends: veth hands a packet over on the same CPU, so forwarding, eBPF
// and the other end's receive work are charged to the sender, who is in the
// cgroup. What is handed to ksoftirqd is not, so its threads' run time is added.
// (perf over all CPUs, while fast and full paths carried TCP and small packets:
// of the samples in the network's code 99.8 % were in the cgroup's tasks, 0.2 % in
// ksoftirqd, none in the idle task or elsewhere.)
// Time of the whole machine (/proc/stat) would also hold what others do on it
// and counts in ticks; it is only printed beside, as machine.outside.
//
// Client and server are this program too (see end.go), started once for each
// world; the client is bound to the first CPU, the server to the second, and the
// translator goes where the scheduler puts it.
//
// Invariants:
//   - All load is bounded in time, and small packets in rate.
//   - Whatever ends the run (an error, SIGINT, SIGTERM), processes, namespaces,
//     cgroup and files are gone when it has ended.
//   - A sample in which packets went missing, or came through no translator, is
//     an error, not a figure.
package main
