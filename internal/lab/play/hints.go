package play

import (
	"fmt"
	"os"
	"strings"

	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Hints are commands for a person to play with what is up.
func Hints(st *stage.Stage) string {
	var b strings.Builder
	self := os.Args[0]
	b.WriteString("\nThe machines are up. To play with them:\n")
	for _, t := range script.SharedAll[stage.Hinter](st.Script) {
		b.WriteString(t.Hints(self))
	}
	fmt.Fprintf(&b, "  # all machines: ip netns list; logs: %s\n", st.LogDir)
	b.WriteString("To take it down:\n")
	return b.String()
}
