// Package reel keeps the newest still of each channel and size in memory, and those of the last minutes.
//
// There is one copy of each still, which all readers share. A reader of the newest takes no lock. Who waits for the next
// one waits on a channel of the frame that it has (Frame.Next): one close wakes all.
//
// What has no successor for Options.Keep is forgotten too, and a channel of which nothing is left. A channel's captions
// go the same way.
//
// Invariants:
//   - the newest frame of a channel and size has the largest number of it that was ever added: what comes later with a
//     smaller one is ErrLate;
//   - Bytes is never above Options.MaxBytes, whatever is added: older stills make room, of all channels the oldest first;
//     a still for which there is no room without dropping a newest one is ErrFull;
//   - a frame is never changed after Add; its Next is closed exactly once, when it is not the newest any more.
package reel
