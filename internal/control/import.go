package control

import (
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"sync/atomic"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/saga"
	"widecloud/internal/state"
	"widecloud/internal/volume"
)

// imageImport is the record of a job that brings an image in from its source.
type imageImport struct {
	saga.Head
	Image string `json:"image"` // name
	UID   string `json:"uid"`   // of the image

	base    volume.Base // what was read
	release func()      // lets the sweep have it
}

// newImports is the kind of job that imports images.
func newImports(c *Controller) *jobs[imageImport] {
	return &jobs[imageImport]{
		c: c, prefix: prefixImports, failpoint: "import", means: c.importMeans,
		about: func(m *imageImport) []any { return []any{"image", m.Image} },
		after: func(m *imageImport) {
			if m.release != nil {
				m.release() // the image's status names the base now
			}
		},
		kind: saga.Kind[imageImport]{
			Plan: cloud.Import, Head: func(m *imageImport) *saga.Head { return &m.Head },
			Work: map[saga.Step]saga.Work[imageImport]{cloud.ImportAsked: {Do: c.importSource, Progress: c.importProgress}},
		},
	}
}

// importImages begins the import of the images that have a source and are not here yet.
func (c *Controller) importImages(ctx context.Context) error {
	var todo []string
	if err := c.view(ctx, func(tx *state.Tx) error {
		todo = nil
		for i := range by[api.Image](tx, "todo", "import") {
			if i.Status.Job == "" {
				todo = append(todo, i.Name)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, name := range todo {
		_, err := change(ctx, c, name, func(tx *state.Tx, i *api.Image) error {
			if !toImport(i) {
				return nil
			}
			job := &api.Job{Meta: c.newMeta("import-"+c.shortID(), i.Owner), Spec: api.JobSpec{Object: "images/" + i.Name}}
			if err := saga.Hold("image "+i.Name, &i.Status.Job, job.Name); err != nil {
				return err
			}
			return c.imports.begin(tx, job, &imageImport{Image: i.Name, UID: i.UID})
		})
		if err != nil {
			return err
		}
		c.poke()
	}
	return nil
}

// toImport tells whether an image is to be brought in from its source.
func toImport(i *api.Image) bool {
	return i.Status.Phase == "importing" && i.Spec.Source != "" && !i.Deleting
}

// importSource reads an image from its source.
func (c *Controller) importSource(ctx context.Context, m *imageImport) (saga.Step, error) {
	var i *api.Image
	if err := c.view(ctx, func(tx *state.Tx) (err error) {
		i, err = find[api.Image](tx, m.Image)
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
	ctx, done, err := c.beginImport(ctx, i)
	if err != nil {
		return "", err
	}
	defer done()
	m.base, m.release, err = c.readImage(ctx, i, nil)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		if m.release != nil {
			m.release()
		}
		return "", &api.Error{Code: failureCode(err), Message: cloud.Line(err.Error(), maxText)} // in full: the image shows it
	}
	return cloud.ImportDone, nil
}

func failureCode(err error) api.Code {
	e := &api.Error{Code: api.CodeInternal}
	errors.As(err, &e)
	return e.Code
}

// importProgress is how much of an image has been read.
func (c *Controller) importProgress(_ context.Context, m *imageImport) (p api.Progress, err error) {
	c.reads.Lock()
	defer c.reads.Unlock()
	if r := c.reading[m.UID]; r != nil {
		p.DiskDone, p.DiskTotal = r.bytes.Load(), r.total.Load()
	}
	return p, nil
}

// importMeans does what the end of an import means for the image.
func (c *Controller) importMeans(tx *state.Tx, j *api.Job, m *imageImport) error {
	i, err := get[api.Image](tx, m.Image)
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
		c.imageReady(tx, i, m.base)
	default:
		c.imageFailed(tx, i, strings.TrimPrefix(m.Failure.Message, cloud.Import.Doing(cloud.ImportAsked)+": "))
	}
	return put(tx, i)
}

// imageReady makes what was read the content of an image.
func (c *Controller) imageReady(tx *state.Tx, i *api.Image, base volume.Base) {
	i.Status = api.ImageStatus{
		Phase: "ready", Digest: string(base.Digest), Format: string(base.Format), Bytes: base.Bytes,
		VirtualMiB: (base.VirtualBytes + 1<<20 - 1) >> 20,
	}
	c.event(tx, "image.ready", "images/"+i.Name, i.Owner, string(base.Digest))
}

// imageFailed says in an image why its content did not come in.
func (c *Controller) imageFailed(tx *state.Tx, i *api.Image, why string) {
	i.Status = api.ImageStatus{Phase: "failed", Message: cloud.Line(why, maxText)}
	c.event(tx, "image.failed", "images/"+i.Name, i.Owner, i.Status.Message)
}

// Upload is serve.Controller's. An image takes one content, and never another one.
func (c *Controller) Upload(ctx context.Context, p access.Actor, image string, content io.Reader) (*api.Image, error) {
	ctx = asUser(ctx, p)
	o, err := c.Get(ctx, p, api.KindImage, image)
	if err != nil {
		return nil, err
	}
	if err := access.Change(p, o); err != nil {
		return nil, err
	}
	i := o.(*api.Image)
	switch {
	case i.Spec.Source != "":
		return nil, api.Errorf(api.CodeConflict, "image %s has a source: %s", image, path.Base(i.Spec.Source))
	case i.Status.Phase == "ready":
		return nil, imageHasContent(image)
	}
	return c.takeContent(ctx, i, content)
}

func imageHasContent(image string) error {
	return api.Errorf(api.CodeConflict, "image %s has its content; it never changes: create another one", image)
}

// takeContent reads an image from content that a user sends, and keeps what came of it. It ends with the user's request, so
// it is not a job: nobody could go on with it.
func (c *Controller) takeContent(ctx context.Context, i *api.Image, content io.Reader) (*api.Image, error) {
	ctx, done, err := c.beginImport(ctx, i)
	if err != nil {
		return nil, err
	}
	defer done()
	base, release, err := c.readImage(ctx, i, content)
	defer release() // once the image's status names the base
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	changed, storeErr := change(ctx, c, i.Name, func(tx *state.Tx, now *api.Image) error {
		switch {
		case now.UID != i.UID || now.Status.Phase == "ready":
			return imageHasContent(i.Name)
		case err != nil:
			c.imageFailed(tx, now, err.Error())
		default:
			c.imageReady(tx, now, base)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return changed, storeErr
}

// errImageDeleted ends the import of an image that was deleted.
var errImageDeleted = api.Errorf(api.CodeConflict, "the image was deleted while its content was being read")

// reading is the content of an image while it is being read.
type reading struct {
	io.Reader
	bytes, total atomic.Int64 // total 0: not known
	end          context.CancelCauseFunc
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.bytes.Add(int64(n))
	return n, err
}

// beginImport makes the import of an image the only one, and lets its deletion end it.
func (c *Controller) beginImport(ctx context.Context, i *api.Image) (context.Context, func(), error) {
	c.reads.Lock()
	defer c.reads.Unlock()
	if c.reading[i.UID] != nil {
		return nil, nil, api.Errorf(api.CodeConflict, "the content of image %s is being read already; wait for it: wcc image show %s", i.Name, i.Name)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c.reading[i.UID] = &reading{end: cancel}
	return ctx, func() {
		cancel(nil)
		c.reads.Lock()
		defer c.reads.Unlock()
		delete(c.reading, i.UID)
	}, nil
}

// endImport ends the import of an image, if one is under way.
func (c *Controller) endImport(uid string) {
	c.reads.Lock()
	r := c.reading[uid]
	c.reads.Unlock()
	if r != nil {
		r.end(errImageDeleted)
	}
}

// cancelImport asks for the end of the job that imports an image, in the transaction that deletes the image.
func (c *Controller) cancelImport(tx *state.Tx, i *api.Image) error {
	if i.Status.Job == "" {
		return nil
	}
	j, err := get[api.Job](tx, i.Status.Job)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && j.Status.State.Ended() {
		return nil
	}
	if err != nil {
		return err
	}
	j.Spec.Cancel = true
	return put(tx, j)
}

// readImage reads and checks an image's content, between beginImport and its end. No sweep takes the base away before release
// is called.
func (c *Controller) readImage(ctx context.Context, i *api.Image, content io.Reader) (base volume.Base, release func(), err error) {
	nothing := func() {}
	in := volume.Import{Format: i.Spec.Format}
	if i.Spec.Digest != "" {
		if in.Digest, err = volume.ParseDigest(i.Spec.Digest); err != nil {
			return base, nothing, err
		}
	}
	if content == nil {
		o, err := c.fetchOptions(ctx)
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
	c.reads.Lock()
	r := c.reading[i.UID]
	c.reads.Unlock()
	r.Reader = content
	r.total.Store(max(in.Bytes, 0))
	if base, release, err = c.o.Images.ImportBase(ctx, r, in); err != nil {
		return base, nothing, err
	}
	return base, release, nil
}
