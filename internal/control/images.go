package control

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"widecloud/api"
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
			}
		})
	}
	return nil
}

// importImage reads an image from its source, or from content, and keeps what came of it.
func (c *Controller) importImage(ctx context.Context, i *api.Image, content io.Reader) (*api.Image, error) {
	release := func() {} // once the image's status names the base
	defer func() { release() }()
	base, err := func() (volume.Base, error) {
		var size int64
		if content == nil {
			o := volume.FetchOptions{Logger: c.log}
			if strings.HasPrefix(i.Spec.Source, "/") {
				o.Dirs = []string{"/"} // only an admin may name a path of this machine; Create has checked it
			}
			r, total, err := volume.Fetch(ctx, i.Spec.Source, o)
			if err != nil {
				return volume.Base{}, err
			}
			defer r.Close()
			content, size = r, total
		}
		want := volume.Digest("")
		if i.Spec.Digest != "" {
			var err error
			if want, err = volume.ParseDigest(i.Spec.Digest); err != nil {
				return volume.Base{}, err
			}
		}
		b, done, err := c.o.Images.ImportBase(ctx, content, volume.Import{Digest: want, Format: i.Spec.Format, Bytes: size})
		if err == nil {
			release = done
		}
		return b, err
	}()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	changed, storeErr := change(ctx, c, i.Name, func(tx store.Tx, i *api.Image) error {
		if err != nil {
			i.Status = api.ImageStatus{Phase: "failed", Message: err.Error()}
			c.event(tx, "image.failed", "images/"+i.Name, i.Owner, err.Error())
			return nil
		}
		i.Status = api.ImageStatus{
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

// sendImage answers a request for an image; what is not here is fetched from the site whose guest needs it.
func (c *Controller) sendImage(ctx context.Context, h wire.ImageHeader, s *wire.Stream) error {
	digest, err := volume.ParseDigest(h.Digest)
	if err != nil {
		return err
	}
	if !c.o.Images.HasBase(digest) {
		if err := c.fetchImage(ctx, digest); err != nil {
			return err
		}
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

// fetchImage brings an image of a guest's home here.
func (c *Controller) fetchImage(ctx context.Context, digest volume.Digest) error {
	select {
	case c.fetching <- struct{}{}:
		defer func() { <-c.fetching }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.o.Images.HasBase(digest) {
		return nil
	}
	home := ""
	if err := c.view(ctx, func(tx store.Tx) error {
		for _, prefix := range []string{prefixClaims, prefixOrders} {
			all, err := listJSON[wire.Claim](tx, prefix)
			if err != nil {
				return err
			}
			for _, g := range all {
				if g.Order.Image == string(digest) && g.Home != c.o.Site {
					home = g.Home
				}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if home == "" {
		return api.Errorf(api.CodeNotFound, "image %s is not here", digest)
	}
	s, err := c.o.Federation.Session(home, true)
	if err != nil {
		return err
	}
	format, content, err := wire.OpenImage(ctx, s, wire.PathFedImage, string(digest))
	if err != nil {
		return fmt.Errorf("image from %s: %w", home, err)
	}
	defer content.Close()
	began := time.Now()
	base, release, err := c.o.Images.ImportBase(ctx, content, volume.Import{Digest: digest, Format: format})
	if err != nil {
		return fmt.Errorf("image from %s: %w", home, err)
	}
	release() // the guest's claim or order names it
	c.log.Info("image is here", "peer", home, "digest", digest, "bytes", base.Bytes, "seconds", time.Since(began).Seconds())
	return nil
}
