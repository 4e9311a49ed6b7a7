// Package script understands the lab's language: one statement a line. It has the
// lexer, located errors, the registry of statements, and the names that a script
// has declared. It knows no statement itself: topics (internal/lab/topic) register
// theirs.
//
// A statement is an [Entry]. Its form, such as
//
//	expect traffic TRAFFIC lost N [requests|bytes]
//
// is what users read, and what tells it apart from others: words in lower case
// stand as they are, words in upper case are names and values.
//
// A name stands for one thing of a script, whatever it is: a site, a host, a VM.
// What a thing can be is said by its Go type: [Ref] takes a name of a thing that is
// a T, where T is an interface such as "can be a client's place".
//
// Invariants:
//   - A script is understood as a whole or not at all: Parse reads and makes
//     nothing, and returns every fault at once, each with file, line and column.
//   - No two entries fit the same line; NewRegistry refuses them.
//   - A name that would be mistaken for a word of the language is refused.
//   - What a statement's parser leaves over is a fault.
package script
