package api

import "math"

// Location is where a site is on the globe, for people to look at: nothing depends on it.
type Location struct {
	Latitude  float64 `json:"latitude"`        // degrees, north is positive
	Longitude float64 `json:"longitude"`       // degrees, east is positive
	Place     string  `json:"place,omitempty"` // what people call it
}

// Fault says what is wrong with the coordinates, and which field it is; nil: nothing.
func (l Location) Fault() *Error {
	switch {
	case !(math.Abs(l.Latitude) <= 90): // NaN, too
		return Invalidf("latitude", "%v is not between -90 and 90 degrees", l.Latitude)
	case !(math.Abs(l.Longitude) <= 180):
		return Invalidf("longitude", "%v is not between -180 and 180 degrees", l.Longitude)
	case len(l.Place) > MaxPlace:
		return Invalidf("place", "has %d bytes, more than %d", len(l.Place), MaxPlace)
	}
	return nil
}

// MaxPlace is how long a location's name may be, in bytes.
const MaxPlace = 100
