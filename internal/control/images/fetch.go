package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// imageSource is a home that has an image for a guest of its here.
type imageSource struct {
	home  string
	limit int64 // bytes that its guests' loans have room for
}

// Fetch brings an image of a guest's home here. Of several homes that have it, one that does not send it keeps nobody
// else's guests from it.
func (is *Images) Fetch(ctx context.Context, digest volume.Digest) error {
	if is.Images.HasBase(digest) {
		return nil
	}
	sources, err := is.imageSources(ctx, digest)
	if err != nil {
		return err
	}
	err = api.Errorf(api.CodeNotFound, "image %s is not here", digest)
	for _, s := range sources {
		if err = is.fetchImageFrom(ctx, s, digest); err == nil || ctx.Err() != nil {
			return err
		}
		is.Log.Warn("fetch an image", "peer", s.home, "digest", digest, "err", err)
	}
	return err
}

func (is *Images) imageSources(ctx context.Context, digest volume.Digest) (out []imageSource, err error) {
	err = is.Read(ctx, func(tx *state.Tx) error {
		for _, prefix := range []string{objects.PrefixClaims, objects.PrefixOrders} {
			all, err := objects.ListRecords[wire.Claim](tx, prefix)
			if err != nil {
				return err
			}
			for _, g := range all {
				if g.Order.Image != string(digest) || g.Home == is.Name {
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
func (is *Images) fetchImageFrom(ctx context.Context, from imageSource, digest volume.Digest) error {
	free, err := is.fetchSlot(ctx, from.home)
	if err != nil {
		return err
	}
	defer free()
	if is.Images.HasBase(digest) {
		return nil
	}
	s, err := is.Federation.Session(from.home, true)
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
	base, release, err := is.Images.ImportBase(ctx, content, volume.Import{Digest: digest, Format: format, Bytes: size, Limit: from.limit})
	if err != nil {
		return fmt.Errorf("image from %s: %w", from.home, err)
	}
	release() // the guest's claim or order names it
	is.Log.Info("image is here", "peer", from.home, "digest", digest, "bytes", base.Bytes, "seconds", time.Since(began).Seconds())
	return nil
}

// fetchSlot waits for the turn to fetch from a peer.
func (is *Images) fetchSlot(ctx context.Context, peer string) (free func(), err error) {
	is.reads.Lock()
	slot := is.fetching[peer]
	if slot == nil {
		slot = make(chan struct{}, 1)
		is.fetching[peer] = slot
	}
	is.reads.Unlock()
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), context.Cause(ctx))
	}
}
