// Package pattern draws a test picture that a program can read again: colour bars, something that moves, the time and a
// number for people, and both once more as a field of black and white cells with a checksum. What comes out at a viewer
// tells which picture it is and how old, whatever scaling and compression it went through.
//
// The lower half of a picture is the field: 16 columns by 8 rows of cells, row by row, white for 1: 56 bits of number, 48
// bits of milliseconds since 1970, and 24 bits of CRC-32 (IEEE) of these 13 bytes.
//
// Invariants:
//   - Read gives what Draw was given, in whole milliseconds, or an error; a picture of something else passes the checksum
//     once in 16 million times;
//   - a picture depends on the arguments of Draw alone.
package pattern
