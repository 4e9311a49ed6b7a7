// Package images is the life of images: they are imported from a source or uploaded, sent to agents and to lenders' sites, fetched from
// guests' homes, and removed when nothing needs them.
//
// Invariants:
//   - an image takes one content, and never another one;
//   - a user's URL leads to what has global reach, or is named in the configuration, and never to the site's own machines;
//   - a guest's image takes no more room than its loan has;
//   - a VM of whose disk an image is made stays stopped, and where it is, until that has ended.
package images

import (
	"context"
	"io"
	"sync"
	"time"

	"widecloud/internal/access"
	"widecloud/internal/control/jobs"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/volume"
)

// Images is the life of a site's images.
type Images struct {
	*objects.Site
	imports *jobs.Of[imageImport]
	disks   Disks

	reads    sync.Mutex
	fetching map[string]chan struct{} // by peer: one image is fetched from it at a time
	reading  map[string]*reading      // of images whose content is being read, by UID

	// Of SweepImages alone.
	sweptImages time.Time
	unusedSince map[volume.Digest]time.Time
}

// Disks are those of VMs, of which images are made; package vms has them.
type Disks interface {
	// LendDisk gives a stopped VM of the actor to a job that reads one of its disks, or says what is against it.
	LendDisk(tx *state.Tx, by access.Actor, vm, disk, job string) (objects.StoppedDisk, error)
	// ReadDisk opens a disk that was lent, as package volume sends disks.
	ReadDisk(ctx context.Context, k objects.StoppedDisk) (io.ReadCloser, error)
	// DiskBack takes the VM back from the job.
	DiskBack(tx *state.Tx, k objects.StoppedDisk, job string) error
}

// Of says whose disks images are made of. It is for the time before Run.
func (is *Images) Of(d Disks) { is.disks = d }

// New begins the life of a site's images.
func New(site *objects.Site, js *jobs.Jobs) *Images {
	is := &Images{Site: site, fetching: map[string]chan struct{}{}, reading: map[string]*reading{}, unusedSince: map[volume.Digest]time.Time{}}
	is.imports = newImports(is, js)
	js.Add(is.imports)
	objects.Register(site, is.imageLife())
	return is
}

// Tables are those of images and their imports.
func Tables() state.Schema {
	return state.Schema{objects.NounTable(objects.Index("todo", imageTodo)), objects.RecordTable[imageImport](objects.PrefixImports)}
}
