package control_test

import (
	"testing"
	"testing/synctest"

	"widecloud/api"
)

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func room() api.Resources { return api.Resources{CPUs: 10, MemoryMiB: 10240, DiskGiB: 100} }

func TestMigrateThereAndBack(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, hosts: 2}, func(w *world) {
		tokyo := w.sites["tokyo"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo/h1")
		tokyo.runs("web1")
		for _, target := range []string{"osaka", "tokyo/h1", "tokyo/h2", "osaka/h2", "osaka/h1", "tokyo"} {
			tokyo.moved("web1", target)
		}
	})
}
