package siit

// Step is one rule of a translation and what it came to.
type Step struct{ Rule, Result string }
