// Package config reads the TOML files of the programs. A file is strict: a field that is not known is an error, and every
// error says where it is (site.toml:12: api.listn: unknown field). All errors of a file are given at once.
//
// examples/site.toml and examples/agent.toml are the manual: they name every field with its default and are read by the
// tests.
//
// Invariants:
//   - what Load gives without an error has passed Check: no field of it needs to be looked at again;
//   - an error shows the value of a field only when the field cannot hold a secret; secrets stand in files of their own;
//   - nothing is read but the file itself, and no default depends on the machine.
package config
