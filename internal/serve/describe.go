package serve

import "log/slog"

// Describe gives the API's OpenAPI description without a site that serves it.
func Describe(version string) []byte {
	return New(Options{Controller: nobody{}, Logger: slog.New(slog.DiscardHandler), Version: version}).OpenAPI()
}

// nobody is a Controller that nobody asks: a description needs its methods, and calls none.
type nobody struct{ Controller }
