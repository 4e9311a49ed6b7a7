package main

import (
	"testing"
)

func TestCheck(t *testing.T) {
	c := checkCmd{configFlag{"../../examples/sentryc.toml"}}
	if err := c.Run(); err != nil {
		t.Error(err)
	}
	c.Config = "nowhere.toml"
	if err := c.Run(); err == nil {
		t.Error("a file that is not there is good")
	}
}
