// Package saga runs long work: a job with a journal of steps, which a process that dies at any moment leaves so that the
// next one can go on or go back.
//
// A Plan says which steps a kind of job has, which step may follow which, and what an error or a user's cancel may still
// do at each. A Kind adds what is done at each step. Run takes one job from the step in its Journal to its end. The caller
// brings the journal (a store), the waiting and the log, so that the package has no I/O and no clock.
//
// A step in the journal means: what leads there is done; what follows from it may have been begun, or not. So everything
// that is done at a step is done again after a crash, and must be idempotent. Work that cannot be done again because it
// died with its process (Point.Lost) goes back instead.
//
// An error of the journal itself says nothing about whether the step was written. Run reads the journal again, until it
// answers, and goes on from what it says.
//
// A parent is a job whose steps started other jobs, its children. It waits for them at the steps that say so, cancels them
// when it goes back, and never ends before them.
//
// Invariants:
//   - the journal goes only from a step to one that the plan lists after it; a valid plan has no way round in circles;
//   - past the decision, and on the way back, a step is only ever repeated, whatever the error; only the work of the
//     step itself may choose a way back from there, by proof;
//   - an accepted cancel is kept: the journal refuses the deciding step when one was accepted before it;
//   - one job at a time holds an object (Hold), and the refusal of another one names it;
//   - a job ends after all of its children;
//   - no I/O, no clock, no log.
package saga
