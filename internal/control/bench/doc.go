// Command bench measures what a site's controller bears: real control, serve, store/bolt and wire, with simulated agents,
// watchers and users. docs/controller-bench.md says what each figure means and has the results; `make bench-controller`
// runs it.
//
// The controller is this program too, started as its own process (role "controller"), so that its CPU time and memory are
// its own. Everything else (agents that dial by wire, watchers and writers over HTTP) is in the first process. Both share the
// machine's CPUs: a latency contains what the other process takes, too.
//
// The site is not made by requests but written into a store file (seed.go), as if it had been there for long: hosts with
// their certificates, organisations with a user, a network and VMs each. A run then goes through these phases: placement
// alone, start, agents, watchers, load, lists, kill -9 and restart.
//
// Requests come by the clock and not one after the other: the latency of one that had to wait for its turn contains the
// wait.
//
// Invariants:
//   - Whatever ends the run (an error, SIGINT, SIGTERM), the controller's process and the files are gone when it has ended.
//   - A run in which a watcher missed a change, a request was refused, or an agent lost its session under load is an error,
//     not a figure.
package main
