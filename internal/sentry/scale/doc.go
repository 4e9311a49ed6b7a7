// Package scale makes stills of pictures: it scales them down and compresses each to a number of bytes.
//
// The filter takes the mean of the area that a pixel covers, on the planes of luma and chroma as they are: the pictures
// come out of JPEGs and go into JPEGs, and a conversion to RGB and back costs more than the filter.
//
// Invariants:
//   - a JPEG has at most the bytes of its size's budget, and fits into its box with the picture's proportions;
//   - no picture is made larger than it was;
//   - a JPEG is made of the pixels alone: nothing else of a source's file (EXIF, places, thumbnails, comments) is in it.
package scale
