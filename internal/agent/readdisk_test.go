package agent_test

import (
	"testing"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/wire"
)

// TestReadDiskRefused: a disk is read only of a VM that is stopped, by its order and by the hypervisor's word, at the epoch that is
// asked for, over the image that the asker has, and that no migration has.
func TestReadDiskRefused(t *testing.T) {
	h := newColdHost(t)
	good := wire.DiskHeader{VM: coldVM, Epoch: 1, Disk: api.RootDisk, Image: anImage, Codec: "none"}
	refused := func(what string, code api.Code, change func(*wire.DiskHeader)) {
		t.Helper()
		header := good
		change(&header)
		wantCode(t, what, h.ReadDisk(t.Context(), header, nil), code)
	}
	same := func(*wire.DiskHeader) {}
	refused("no such VM", api.CodeNotFound, same)
	h.orders(t, 1, wire.RunOn)
	refused("one that is to run", api.CodeConflict, same)
	h.orders(t, 2, wire.RunOff)
	refused("another epoch", api.CodeStale, func(d *wire.DiskHeader) { d.Epoch = 2 })
	refused("another image", api.CodeConflict, func(d *wire.DiskHeader) { d.Image = "sha256:0" })
	refused("no image", api.CodeConflict, func(d *wire.DiskHeader) { d.Image = "" })
	refused("no such disk", api.CodeNotFound, func(d *wire.DiskHeader) { d.Disk = "../x" })
	refused("a disk that is not there yet", api.CodeNotFound, same)
	if _, err := h.Begin(t.Context(), wire.MigrateCall{VM: coldVM, Epoch: 1, Job: "migrate-1", Cold: true}); err != nil {
		t.Fatal(err)
	}
	refused("one that moves", api.CodeConflict, same)
	if err := h.Confirm(t.Context(), wire.FinishCall{VM: coldVM, Epoch: 3, Job: "migrate-1"}); err != nil {
		t.Fatal(err)
	}
	good.Epoch = 3
	spec := hyper.Spec{VM: coldVM, Name: "web1", Epoch: 3, Hardware: h.order.Hardware}
	if err := h.driver.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	refused("one that runs, whatever its order says", api.CodeConflict, same)
}
