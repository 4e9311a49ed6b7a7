package main

import (
	"cmp"

	"widecloud/api"
)

var _ = present[volumeGroup](api.KindVolume,
	col("VM", func(o *api.Volume) string { return o.Spec.VM }),
	col("DISK", func(o *api.Volume) string { return cmp.Or(o.Spec.Disk, api.RootDisk) }),
	col("SIZE", func(o *api.Volume) string { return sizeOr(o.Spec.SizeMiB << 20) }),
	col("USED", func(o *api.Volume) string { return sizeOr(o.Status.AllocatedBytes) }),
	col("PLACE", func(o *api.Volume) string { return place(o.Status.Site, o.Status.Host) }),
	wide("IMAGE", func(o *api.Volume) string { return o.Spec.Image }),
)

type volumeGroup struct {
	List listCmd `cmd:"" help:"List the disks of VMs."`
	Show showCmd `cmd:"" help:"Show a disk."`
}
