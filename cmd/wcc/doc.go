// Wcc is widecloud's controller, agent, lab and command line in one program. docs/wcc.md has its commands.
//
// Invariants:
//   - the exit code is 0 when what was asked for is done or accepted, 1 when it was refused or failed, 2 when the command
//     line or a configuration file is wrong; nothing has been sent to a controller in the last case;
//   - standard output has what was asked for and nothing else; errors and progress go to standard error;
//   - a refusal shows every reason that the controller gave, one to a line.
package main
