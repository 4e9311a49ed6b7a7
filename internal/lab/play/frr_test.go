package play_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/lab/play"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/siit"
)

var update = flag.Bool("update", false, "write examples/frr anew")

// TestFRRExamples: the examples of FRR's configuration are what the lab's
// routers run in the scripts that they name.
func TestFRRExamples(t *testing.T) {
	for name, script := range map[string]string{"ospf": "siit-failover.lab", "bgp": "siit-bgp.lab"} {
		path := filepath.Join("..", "..", "..", "examples", script)
		text, err := os.ReadFile(path)
		must(t, err)
		s, err := play.Parse(script, string(text))
		must(t, err)
		centre := siit.Of(s)
		for kind, got := range map[string]string{
			"translator": centre.TranslatorRouting(0).Config(centre.Translators[0].Name), "router": stage.InternetOf(s).Routing(s).Config("inet"),
		} {
			what := map[string]string{
				"translator": "a translator (map646) with the device \"inet\" to the Internet and \"dc\" to the data centre",
				"router":     "the router to which the translators br1 and br2 are connected",
			}[kind]
			got = "! FRR of " + what + ".\n! This is what examples/" + script + " runs; a test keeps it so. For /etc/frr/frr.conf, or each part for its daemon's own file.\n" + got
			file := filepath.Join("..", "..", "..", "examples", "frr", name+"-"+kind+".conf")
			if *update {
				must(t, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			must(t, err)
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("%s is not what %s runs (-update writes it; -file +lab):\n%s", file, script, d)
			}
		}
	}
}
