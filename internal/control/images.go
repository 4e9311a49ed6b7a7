package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/serve"
	"widecloud/internal/store"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// importImages brings in the images that have a source and are not here yet.
func (c *Controller) importImages(ctx context.Context) error {
	var todo []*api.Image
	if err := c.view(ctx, func(tx store.Tx) error {
		all, err := list[api.Image](tx)
		for _, i := range all {
			if i.Status.Phase == "importing" && i.Spec.Source != "" && !i.Deleting {
				todo = append(todo, i)
			}
		}
		return err
	}); err != nil {
		return err
	}
	for _, i := range todo {
		c.once("image/"+i.Name, func(ctx context.Context) {
			if _, err := c.importImage(ctx, i, nil); err != nil && ctx.Err() == nil {
				c.log.Warn("import image", "image", i.Name, "err", err)
				c.pause(ctx)
			}
		})
	}
	return nil
}

// Upload is serve.Controller's. An image takes one content, and never another one.
func (c *Controller) Upload(ctx context.Context, p serve.Principal, image string, content io.Reader) (*api.Image, error) {
	o, err := c.Get(ctx, p, api.KindImage, image)
	if err != nil {
		return nil, err
	}
	if err := changes(p, o); err != nil {
		return nil, err
	}
	i := o.(*api.Image)
	switch {
	case i.Spec.Source != "":
		return nil, api.Errorf(api.CodeConflict, "image %s has a source: %s", image, path.Base(i.Spec.Source))
	case i.Status.Phase == "ready":
		return nil, api.Errorf(api.CodeConflict, "image %s has its content; it never changes: create another one", image)
	}
	return c.importImage(ctx, i, content)
}

// importImage reads an image from its source, or from content, and keeps what came of it. One import of an image is under way
// at a time; it ends when the image is deleted.
func (c *Controller) importImage(ctx context.Context, i *api.Image, content io.Reader) (*api.Image, error) {
	ctx, done, err := c.beginImport(ctx, i)
	if err != nil {
		return nil, err
	}
	defer done()
	base, err := c.readImage(ctx, i, content)
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	changed, storeErr := change(ctx, c, i.Name, func(tx store.Tx, now *api.Image) error {
		if now.UID != i.UID || now.Status.Phase == "ready" {
			return api.Errorf(api.CodeConflict, "image %s has its content; it never changes: create another one", i.Name)
		}
		if err != nil {
			now.Status = api.ImageStatus{Phase: "failed", Message: cloud.Line(err.Error(), maxText)}
			c.event(tx, "image.failed", "images/"+i.Name, i.Owner, now.Status.Message)
			return nil
		}
		now.Status = api.ImageStatus{
			Phase: "ready", Digest: string(base.Digest), Format: string(base.Format), Bytes: base.Bytes,
			VirtualMiB: (base.VirtualBytes + 1<<20 - 1) >> 20,
		}
		c.event(tx, "image.ready", "images/"+i.Name, i.Owner, string(base.Digest))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return changed, storeErr
}

// errImageDeleted ends the import of an image that was deleted.
var errImageDeleted = api.Errorf(api.CodeConflict, "the image was deleted while its content was being read")

// beginImport makes the import of an image the only one, and lets its deletion end it.
func (c *Controller) beginImport(ctx context.Context, i *api.Image) (context.Context, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.imports[i.UID] != nil {
		return nil, nil, api.Errorf(api.CodeConflict, "the content of image %s is being read already; wait for it: wcc image show %s", i.Name, i.Name)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c.imports[i.UID] = cancel
	return ctx, func() {
		cancel(nil)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.imports, i.UID)
	}, nil
}

// endImport ends the import of an image, if one is under way.
func (c *Controller) endImport(uid string) {
	c.mu.Lock()
	cancel := c.imports[uid]
	c.mu.Unlock()
	if cancel != nil {
		cancel(errImageDeleted)
	}
}

func (c *Controller) readImage(ctx context.Context, i *api.Image, content io.Reader) (base volume.Base, err error) {
	var want volume.Digest
	if i.Spec.Digest != "" {
		if want, err = volume.ParseDigest(i.Spec.Digest); err != nil {
			return base, err
		}
	}
	if content == nil {
		o := volume.FetchOptions{}
		if strings.HasPrefix(i.Spec.Source, "/") {
			o.Dirs = []string{"/"} // only an admin may name a path of this machine; Create has checked it
		}
		r, _, err := volume.Fetch(ctx, i.Spec.Source, o)
		if err != nil {
			return base, err
		}
		defer r.Close()
		content = r
	}
	return c.o.Images.ImportBase(ctx, content, want, i.Spec.Format, 0)
}

// sendImage answers a request for an image that is here.
func (c *Controller) sendImage(_ context.Context, h wire.ImageHeader, s *wire.Stream) error {
	digest, err := volume.ParseDigest(h.Digest)
	if err != nil {
		return err
	}
	f, base, err := c.o.Images.OpenBase(digest)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.Accept(); err != nil {
		return err
	}
	return wire.SendImage(s, string(base.Format), base.Bytes, f)
}

// imageSource is a home that has an image for a guest of its here.
type imageSource struct {
	home  string
	limit int64 // bytes that its guests' loans have room for
}

// fetchImage brings an image of a guest's home here. Of several homes that have it, one that does not send it keeps nobody
// else's guests from it.
func (c *Controller) fetchImage(ctx context.Context, digest volume.Digest) error {
	if c.o.Images.HasBase(digest) {
		return nil
	}
	sources, err := c.imageSources(ctx, digest)
	if err != nil {
		return err
	}
	err = api.Errorf(api.CodeNotFound, "image %s is not here", digest)
	for _, s := range sources {
		if err = c.fetchImageFrom(ctx, s, digest); err == nil || ctx.Err() != nil {
			return err
		}
		c.log.Warn("fetch an image", "peer", s.home, "digest", digest, "err", err)
	}
	return err
}

func (c *Controller) imageSources(ctx context.Context, digest volume.Digest) (out []imageSource, err error) {
	err = c.view(ctx, func(tx store.Tx) error {
		for _, prefix := range []string{prefixClaims, prefixOrders} {
			all, err := listJSON[wire.Claim](tx, prefix)
			if err != nil {
				return err
			}
			for _, g := range all {
				if g.Order.Image != string(digest) || g.Home == c.o.Site {
					continue
				}
				limit := g.Image
				if limit == 0 { // of a home that does not say
					limit = int64(g.Needs.DiskGiB) << 30
				}
				if i := slices.IndexFunc(out, func(s imageSource) bool { return s.home == g.Home }); i >= 0 {
					out[i].limit = max(out[i].limit, limit)
				} else {
					out = append(out, imageSource{g.Home, limit})
				}
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b imageSource) int { return strings.Compare(a.home, b.home) })
	return out, err
}

// fetchImageFrom brings an image from one home. One image of a home is on its way at a time.
func (c *Controller) fetchImageFrom(ctx context.Context, from imageSource, digest volume.Digest) error {
	free, err := c.fetchSlot(ctx, from.home)
	if err != nil {
		return err
	}
	defer free()
	if c.o.Images.HasBase(digest) {
		return nil
	}
	s, err := c.o.Federation.Session(from.home, true)
	if err != nil {
		return err
	}
	format, size, content, err := wire.OpenImage(ctx, s, wire.PathFedImage, string(digest))
	if err != nil {
		return fmt.Errorf("image from %s: %w", from.home, err)
	}
	defer content.Close()
	if size > from.limit {
		return &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("the image from %s has %d bytes, its guests' loans have room for %d", from.home, size, from.limit)}
	}
	began := time.Now()
	base, err := c.o.Images.ImportBase(ctx, content, digest, format, from.limit)
	if err != nil {
		return fmt.Errorf("image from %s: %w", from.home, err)
	}
	c.log.Info("image is here", "peer", from.home, "digest", digest, "bytes", base.Bytes, "seconds", time.Since(began).Seconds())
	return nil
}

// fetchSlot waits for the turn to fetch from a peer.
func (c *Controller) fetchSlot(ctx context.Context, peer string) (free func(), err error) {
	c.mu.Lock()
	slot := c.fetching[peer]
	if slot == nil {
		slot = make(chan struct{}, 1)
		c.fetching[peer] = slot
	}
	c.mu.Unlock()
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), context.Cause(ctx))
	}
}
