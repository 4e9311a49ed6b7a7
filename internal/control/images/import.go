package images

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/jobs"
	"widecloud/internal/control/objects"
	"widecloud/internal/saga"
	"widecloud/internal/state"
	"widecloud/internal/volume"
)

// fetchOptions say where a user's URL may lead: to what has global reach or is named in the configuration, and not to this
// site's own machines.
func (is *Images) fetchOptions(ctx context.Context) (volume.FetchOptions, error) {
	o := volume.FetchOptions{Allow: is.FetchFrom, Pref64: is.Pref64, Logger: is.Log}
	for _, r := range is.Plan.Reserved {
		o.Deny = append(o.Deny, r.Prefix)
	}
	err := is.Read(ctx, func(tx *state.Tx) error {
		hosts, err := objects.List[api.Host](tx)
		for _, h := range hosts {
			if a, err := netip.ParseAddr(h.Status.VTEP); err == nil {
				o.Deny = append(o.Deny, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		return err
	})
	return o, err
}

// imageImport is the record of a job that brings an image in from its source.
type imageImport struct {
	saga.Head
	Image string               `json:"image"`          // name
	UID   string               `json:"uid"`            // of the image
	From  *objects.StoppedDisk `json:"from,omitempty"` // that it is made of; nil: its source

	base    volume.Base // what was read
	release func()      // lets the sweep have it
}

// newImports is the kind of job that imports images.
func newImports(is *Images, js *jobs.Jobs) *jobs.Of[imageImport] {
	return &jobs.Of[imageImport]{
		Jobs: js, Prefix: objects.PrefixImports, Failpoint: "import", Means: is.importMeans,
		About: func(m *imageImport) []any { return []any{"image", m.Image} },
		After: func(m *imageImport) {
			if m.release != nil {
				m.release() // the image's status names the base now
			}
		},
		Kind: saga.Kind[imageImport]{
			Plan: cloud.Import, Head: func(m *imageImport) *saga.Head { return &m.Head },
			Work: map[saga.Step]saga.Work[imageImport]{cloud.ImportAsked: {Do: is.importSource, Progress: is.importProgress}},
		},
	}
}

// Import begins the import of the images that have a source, are not here yet and have no job: of an earlier release, or of one that
// could not be begun with the image.
func (is *Images) Import(ctx context.Context) error {
	var todo []string
	if err := is.Read(ctx, func(tx *state.Tx) error {
		todo = nil
		for i := range objects.By[api.Image](tx, "todo", "import") {
			if i.Status.Job == "" {
				todo = append(todo, i.Name)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, name := range todo {
		_, err := objects.Change(ctx, is.Site, name, func(tx *state.Tx, i *api.Image) error {
			if !toImport(i) {
				return nil
			}
			return is.begin(tx, access.Actor{}, i)
		})
		if err != nil {
			return err
		}
		is.Poke()
	}
	return nil
}

// begin makes the job that imports an image. The caller writes the image, which names it.
func (is *Images) begin(tx *state.Tx, by access.Actor, i *api.Image) error {
	job := &api.Job{Meta: is.NewMeta("import-"+is.ShortID(), i.Owner), Spec: api.JobSpec{Object: "images/" + i.Name}}
	if err := saga.Hold("image "+i.Name, &i.Status.Job, job.Name); err != nil {
		return err
	}
	m := &imageImport{Image: i.Name, UID: i.UID}
	if i.Spec.VM != "" {
		k, err := is.disks.LendDisk(tx, by, i.Spec.VM, cmp.Or(i.Spec.Disk, api.RootDisk), job.Name)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			err = api.Invalidf("spec.vm", "no VM is called %q", i.Spec.VM)
		}
		if err != nil {
			return err
		}
		m.From = &k
	}
	return is.imports.Begin(tx, job, m)
}

// toImport tells whether an image is to be brought in, from its source or a VM's disk.
func toImport(i *api.Image) bool {
	return i.Status.Phase == "importing" && (i.Spec.Source != "" || i.Spec.VM != "") && !i.Deleting
}

// importSource reads an image from its source.
func (is *Images) importSource(ctx context.Context, m *imageImport) (saga.Step, error) {
	var i *api.Image
	if err := is.Read(ctx, func(tx *state.Tx) (err error) {
		i, err = objects.Find[api.Image](tx, m.Image)
		return err
	}); err != nil {
		return "", err
	}
	if i.UID != m.UID {
		return "", errImageDeleted
	}
	if !toImport(i) {
		return cloud.ImportDone, nil // a controller of an older release has brought it in
	}
	ctx, done, err := is.beginImport(ctx, i)
	if err != nil {
		return "", err
	}
	defer done()
	if m.From != nil {
		m.base, m.release, err = is.readDisk(ctx, i, *m.From)
	} else {
		m.base, m.release, err = is.readImage(ctx, i, nil)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		if m.release != nil {
			m.release()
		}
		return "", &api.Error{Code: failureCode(err), Message: cloud.Line(err.Error(), objects.MaxText)} // in full: the image shows it
	}
	return cloud.ImportDone, nil
}

func failureCode(err error) api.Code {
	e := &api.Error{Code: api.CodeInternal}
	errors.As(err, &e)
	return e.Code
}

// importProgress is how much of an image has been read.
func (is *Images) importProgress(_ context.Context, m *imageImport) (p api.Progress, err error) {
	is.reads.Lock()
	defer is.reads.Unlock()
	r := is.reading[m.UID]
	if r == nil {
		return p, nil
	}
	p.DiskDone, p.DiskTotal = r.bytes.Load(), r.total.Load()
	if t := is.Now().Sub(r.began).Seconds(); t > 0 {
		p.Rate = float64(p.DiskDone) / t
	}
	if left := p.DiskTotal - p.DiskDone; left > 0 && p.Rate > 0 {
		p.SecondsLeft = float64(left) / p.Rate
	}
	return p, nil
}

// importMeans does what the end of an import means for the image.
func (is *Images) importMeans(tx *state.Tx, j *api.Job, m *imageImport) error {
	if m.From != nil {
		if err := is.disks.DiskBack(tx, *m.From, m.Job); err != nil {
			return err
		}
	}
	i, err := objects.Get[api.Image](tx, m.Image)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && i.UID != m.UID {
		return nil // it was deleted
	}
	if err != nil {
		return err
	}
	saga.Release(&i.Status.Job, m.Job)
	switch {
	case !toImport(i):
	case m.Step == cloud.ImportDone:
		j.Status.Progress.DiskDone, j.Status.Progress.DiskTotal = m.base.Bytes, m.base.Bytes
		is.imageReady(tx, i, m.base)
	default:
		is.imageFailed(tx, i, strings.TrimPrefix(m.Failure.Message, cloud.Import.Doing(cloud.ImportAsked)+": "))
	}
	return objects.Put(tx, i)
}

// errImageDeleted ends the import of an image that was deleted.
var errImageDeleted = api.Errorf(api.CodeConflict, "the image was deleted while its content was being read")

// reading is the content of an image while it is being read.
type reading struct {
	io.Reader
	began        time.Time
	bytes, total atomic.Int64 // total 0: not known
	end          context.CancelCauseFunc
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.bytes.Add(int64(n))
	return n, err
}

// beginImport makes the import of an image the only one, and lets its deletion end it.
func (is *Images) beginImport(ctx context.Context, i *api.Image) (context.Context, func(), error) {
	is.reads.Lock()
	defer is.reads.Unlock()
	if is.reading[i.UID] != nil {
		return nil, nil, api.Errorf(api.CodeConflict, "the content of image %s is being read already; wait for it: wcc image show %s", i.Name, i.Name)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	is.reading[i.UID] = &reading{began: is.Now(), end: cancel}
	return ctx, func() {
		cancel(nil)
		is.reads.Lock()
		defer is.reads.Unlock()
		delete(is.reading, i.UID)
	}, nil
}

// endImport ends the import of an image, if one is under way.
func (is *Images) endImport(uid string) {
	is.reads.Lock()
	r := is.reading[uid]
	is.reads.Unlock()
	if r != nil {
		r.end(errImageDeleted)
	}
}

// cancelImport asks for the end of the job that imports an image, in the transaction that deletes the image.
func (is *Images) cancelImport(tx *state.Tx, i *api.Image) error {
	if i.Status.Job == "" {
		return nil
	}
	j, err := objects.Get[api.Job](tx, i.Status.Job)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && j.Status.State.Ended() {
		return nil
	}
	if err != nil {
		return err
	}
	j.Spec.Cancel = true
	return objects.Put(tx, j)
}

// readImage reads and checks an image's content, between beginImport and its end. No sweep takes the base away before release
// is called.
func (is *Images) readImage(ctx context.Context, i *api.Image, content io.Reader) (base volume.Base, release func(), err error) {
	nothing := func() {}
	in := volume.Import{Format: i.Spec.Format}
	if i.Spec.Digest != "" {
		if in.Digest, err = volume.ParseDigest(i.Spec.Digest); err != nil {
			return base, nothing, err
		}
	}
	if content == nil {
		o, err := is.fetchOptions(ctx)
		if err != nil {
			return base, nothing, err
		}
		if strings.HasPrefix(i.Spec.Source, "/") {
			o.Dirs = []string{"/"} // only an admin may name a path of this machine; Create has checked it
		}
		r, size, err := volume.Fetch(ctx, i.Spec.Source, o)
		if err != nil {
			return base, nothing, err
		}
		defer r.Close()
		content, in.Bytes = r, size
	}
	is.reads.Lock()
	r := is.reading[i.UID]
	is.reads.Unlock()
	r.Reader = content
	r.total.Store(max(in.Bytes, 0))
	if base, release, err = is.Images.ImportBase(ctx, r, in); err != nil {
		return base, nothing, err
	}
	return base, release, nil
}

// readDisk makes an image's content of a VM's disk, between beginImport and its end, as readImage does.
func (is *Images) readDisk(ctx context.Context, i *api.Image, k objects.StoppedDisk) (base volume.Base, release func(), err error) {
	is.reads.Lock()
	r := is.reading[i.UID]
	is.reads.Unlock()
	disk, err := is.disks.ReadDisk(ctx, k)
	if err != nil {
		return base, nil, err
	}
	defer disk.Close()
	defer context.AfterFunc(ctx, func() { disk.Close() })()
	return is.Images.ImportDisk(ctx, disk, volume.DiskImport{Base: k.Base, Bytes: k.Bytes, Progress: func(done, total int64) {
		r.bytes.Store(done)
		r.total.Store(total)
	}})
}

// imageTodo is what the reconciler has to do with an image.
func imageTodo(i *api.Image) string {
	if toImport(i) && i.Spec.VM == "" { // those of VMs have had a job from the beginning
		return "import"
	}
	return ""
}
