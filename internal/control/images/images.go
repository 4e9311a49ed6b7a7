package images

import (
	"context"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// MayFetch tells whether a peer may have an image of ours: it runs, or is about to run, a VM of ours from it.
func (is *Images) MayFetch(ctx context.Context, from, digest string) error {
	return is.Read(ctx, func(tx *state.Tx) error {
		made := func(v *api.VM) bool {
			img, err := objects.Find[api.Image](tx, v.Spec.Image)
			return err == nil && img.Status.Digest == digest
		}
		for v := range objects.By[api.VM](tx, "site", from) {
			if made(v) {
				return nil
			}
		}
		moving, err := objects.ListRecords[objects.Migration](tx, objects.PrefixMigrations)
		if err != nil {
			return err
		}
		for _, m := range moving {
			if v, err := objects.Find[api.VM](tx, m.VM); err == nil && m.Target.Site == from && made(v) {
				return nil
			}
		}
		return api.Errorf(api.CodeForbidden, "no VM of %s at %s is made from %s", is.Name, from, digest)
	})
}

// Send answers a request for an image that is here.
func (is *Images) Send(_ context.Context, h wire.ImageHeader, s *wire.Stream) error {
	digest, err := volume.ParseDigest(h.Digest)
	if err != nil {
		return err
	}
	f, base, err := is.Images.OpenBase(digest)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.Accept(); err != nil {
		return err
	}
	return wire.SendImage(s, string(base.Format), base.Bytes, f)
}

// lookEvery is how often it is looked for base images that nothing needs, at least.
const lookEvery = 10 * time.Minute

// Sweep removes base images that nothing has named for a while: of images that were deleted, and of guests that are gone.
func (is *Images) Sweep(ctx context.Context) error {
	if is.Now().Sub(is.sweptImages) < min(is.ImageKept/10, lookEvery) {
		return nil
	}
	is.sweptImages = is.Now()
	seen := map[volume.Digest]bool{}
	removed, err := is.Images.Sweep(ctx, func(d volume.Digest) bool {
		used, err := is.imageUsed(ctx, string(d))
		if err != nil || used {
			delete(is.unusedSince, d)
			return true
		}
		seen[d] = true
		if is.unusedSince[d].IsZero() {
			is.unusedSince[d] = is.Now()
		}
		return is.Now().Sub(is.unusedSince[d]) < is.ImageKept
	})
	for _, d := range removed {
		delete(seen, d)
		is.Log.Info("base image that nothing needs is removed", "digest", d)
	}
	maps.DeleteFunc(is.unusedSince, func(d volume.Digest, _ time.Time) bool { return !seen[d] })
	return err
}

// imageUsed tells whether an image of ours, or a guest, needs a base image.
func (is *Images) imageUsed(ctx context.Context, digest string) (used bool, err error) {
	err = is.Read(ctx, func(tx *state.Tx) error {
		images, err := objects.List[api.Image](tx)
		if err != nil {
			return err
		}
		used = slices.ContainsFunc(images, func(i *api.Image) bool { return i.Status.Digest == digest })
		for _, prefix := range []string{objects.PrefixClaims, objects.PrefixOrders} {
			all, err := objects.ListRecords[wire.Claim](tx, prefix)
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

// imageReady makes what was read the content of an image.
func (is *Images) imageReady(tx *state.Tx, i *api.Image, base volume.Base) {
	i.Status = api.ImageStatus{
		Phase: "ready", Digest: string(base.Digest), Format: string(base.Format), Bytes: base.Bytes,
		VirtualMiB: (base.VirtualBytes + 1<<20 - 1) >> 20,
	}
	is.Event(tx, "image.ready", "images/"+i.Name, i.Owner, string(base.Digest))
}

// imageFailed says in an image why its content did not come in.
func (is *Images) imageFailed(tx *state.Tx, i *api.Image, why string) {
	i.Status = api.ImageStatus{Phase: "failed", Message: cloud.Line(why, objects.MaxText)}
	is.Event(tx, "image.failed", "images/"+i.Name, i.Owner, i.Status.Message)
}

// Upload takes the content of an image. An image takes one content, and never another one.
func (is *Images) Upload(ctx context.Context, p access.Actor, image string, content io.Reader) (*api.Image, error) {
	o, err := is.Get(ctx, p, api.KindImage, image)
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
	case i.Spec.VM != "":
		return nil, api.Errorf(api.CodeConflict, "image %s is made of a disk of VM %s", image, i.Spec.VM)
	case i.Status.Phase == "ready":
		return nil, imageHasContent(image)
	}
	return is.takeContent(ctx, i, content)
}

func imageHasContent(image string) error {
	return api.Errorf(api.CodeConflict, "image %s has its content; it never changes: create another one", image)
}

// takeContent reads an image from content that a user sends, and keeps what came of it. It ends with the user's request, so
// it is not a job: nobody could go on with it.
func (is *Images) takeContent(ctx context.Context, i *api.Image, content io.Reader) (*api.Image, error) {
	ctx, done, err := is.beginImport(ctx, i)
	if err != nil {
		return nil, err
	}
	defer done()
	base, release, err := is.readImage(ctx, i, content)
	defer release() // once the image's status names the base
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	changed, storeErr := objects.Change(ctx, is.Site, i.Name, func(tx *state.Tx, now *api.Image) error {
		switch {
		case now.UID != i.UID || now.Status.Phase == "ready":
			return imageHasContent(i.Name)
		case err != nil:
			is.imageFailed(tx, now, err.Error())
		default:
			is.imageReady(tx, now, base)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return changed, storeErr
}

// imageLife is what users do with images.
func (is *Images) imageLife() objects.Life[api.Image] {
	return objects.Life[api.Image]{
		Create: func(tx *state.Tx, by access.Actor, i *api.Image) error {
			if strings.HasPrefix(i.Spec.Source, "/") && !by.Admin {
				return &api.Error{Code: api.CodeForbidden, Field: "spec.source", Message: "only an admin may name a path of the controller's machine; upload the file, or give a URL"}
			}
			i.Status = api.ImageStatus{Phase: "importing"} // its job is begun with it, so that the job has its user's name
			if i.Spec.Source == "" && i.Spec.VM == "" {
				i.Status.Message = "waits for its content"
			} else if err := is.begin(tx, by, i); err != nil {
				return err
			}
			return objects.Put(tx, i)
		},
		Change: objects.Keep[api.Image],
		Delete: func(tx *state.Tx, i *api.Image) error {
			for v := range objects.By[api.VM](tx, "image", i.Name) {
				return objects.InUse(i, "spec.image", "VM %s", v.Name)
			}
			if err := is.cancelImport(tx, i); err != nil {
				return err
			}
			return objects.Gone(tx, i)
		},
		Done: func(i *api.Image, deleted bool) {
			if deleted {
				is.endImport(i.UID)
			}
		},
	}
}
