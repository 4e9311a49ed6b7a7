package play

import (
	"fmt"
	"os"
	"strings"

	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Keep makes ready what a person needs who plays with what is up, and says how: commands, and where pages are.
func Keep(st *stage.Stage) (string, error) {
	for _, k := range script.SharedAll[stage.Keeper](st.Script) {
		if err := k.Keep(st); err != nil {
			return "", err
		}
	}
	return hints(st), nil
}

func hints(st *stage.Stage) string {
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
