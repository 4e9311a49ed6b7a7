package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// importImages brings in the images that have a source and are not here yet.
func (c *Controller) importImages(ctx context.Context) error {
	var todo []*api.Image
	if err := c.view(ctx, func(tx *state.Tx) error {
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
	base, release, err := c.readImage(ctx, i, content)
	defer release() // once the image's status names the base
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	changed, storeErr := change(ctx, c, i.Name, func(tx *state.Tx, now *api.Image) error {
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

// readImage reads and checks an image's content. No sweep takes the base away before release is called.
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
	if base, release, err = c.o.Images.ImportBase(ctx, content, in); err != nil {
		return base, nothing, err
	}
	return base, release, nil
}

// fetchOptions say where a user's URL may lead: to what has global reach or is named in the configuration, and not to this
// site's own machines.
func (c *Controller) fetchOptions(ctx context.Context) (volume.FetchOptions, error) {
	o := volume.FetchOptions{Allow: c.o.FetchFrom, Pref64: c.o.Pref64, Logger: c.log}
	for _, r := range c.o.Plan.Reserved {
		o.Deny = append(o.Deny, r.Prefix)
	}
	err := c.view(ctx, func(tx *state.Tx) error {
		hosts, err := list[api.Host](tx)
		for _, h := range hosts {
			if a, err := netip.ParseAddr(h.Status.VTEP); err == nil {
				o.Deny = append(o.Deny, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		return err
	})
	return o, err
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
	err = c.view(ctx, func(tx *state.Tx) error {
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
	base, release, err := c.o.Images.ImportBase(ctx, content, volume.Import{Digest: digest, Format: format, Bytes: size, Limit: from.limit})
	if err != nil {
		return fmt.Errorf("image from %s: %w", from.home, err)
	}
	release() // the guest's claim or order names it
	c.log.Info("image is here", "peer", from.home, "digest", digest, "bytes", base.Bytes, "seconds", time.Since(began).Seconds())
	return nil
}

// sweepImages removes base images that nothing has named for a while: of images that were deleted, and of guests that are gone.
func (c *Controller) sweepImages(ctx context.Context) error {
	if c.now().Sub(c.sweptImages) < c.o.ImageKept/10 {
		return nil
	}
	c.sweptImages = c.now()
	seen := map[volume.Digest]bool{}
	removed, err := c.o.Images.Sweep(ctx, func(d volume.Digest) bool {
		used, err := c.imageUsed(ctx, string(d))
		if err != nil || used {
			delete(c.unusedSince, d)
			return true
		}
		seen[d] = true
		if c.unusedSince[d].IsZero() {
			c.unusedSince[d] = c.now()
		}
		return c.now().Sub(c.unusedSince[d]) < c.o.ImageKept
	})
	for _, d := range removed {
		delete(seen, d)
		c.log.Info("base image that nothing needs is removed", "digest", d)
	}
	maps.DeleteFunc(c.unusedSince, func(d volume.Digest, _ time.Time) bool { return !seen[d] })
	return err
}

// imageUsed tells whether an image of ours, or a guest, needs a base image.
func (c *Controller) imageUsed(ctx context.Context, digest string) (used bool, err error) {
	err = c.view(ctx, func(tx *state.Tx) error {
		images, err := list[api.Image](tx)
		if err != nil {
			return err
		}
		used = slices.ContainsFunc(images, func(i *api.Image) bool { return i.Status.Digest == digest })
		for _, prefix := range []string{prefixClaims, prefixOrders} {
			all, err := listJSON[wire.Claim](tx, prefix)
			if err != nil {
				return err
			}
			for _, g := range all {
				used = used || g.Order.Image == digest
			}
		}
		return nil
	})
	return used, err
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
