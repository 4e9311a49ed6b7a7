package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/state"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

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
	c.reads.Lock()
	slot := c.fetching[peer]
	if slot == nil {
		slot = make(chan struct{}, 1)
		c.fetching[peer] = slot
	}
	c.reads.Unlock()
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), context.Cause(ctx))
	}
}
