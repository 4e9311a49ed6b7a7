// Package simulated runs many hosts in one process: real agents with real certificates and stores of their own, over
// hypervisors in memory (package hyper/fake). The controller sees no difference. What is not there is said by who needs
// it: guests compute nothing, disks have no content, networks carry no frame.
//
// Invariants:
//   - what an agent keeps, it keeps on disk: after the end of the process all agents come back as themselves;
//   - hypervisors and disks are the process's memory: its end is to the site what a power cut of all its hosts is;
//   - a base image is taken in byte by byte and checked, as on any host; only its content is not kept.
package simulated
