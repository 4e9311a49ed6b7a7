package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/lab/image"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/site"
)

// makers make the images that scripts can name.
var makers = map[string]func(context.Context, image.Options) (string, error){
	"tiny": image.Tiny, "koshien": image.Koshien, "debian": image.Debian, blank: image.Blank,
}

// blank is the image that boots nowhere.
const blank = "blank"

// Image is a VM's image.
type Image struct {
	Name   string
	owners map[*site.Site]bool // of VMs of it

	path string // of its file, once it is made

	// Of one that is made of a VM's disk.
	of     *VM
	disk   string
	digest string
}

// images are those of a script.
type images struct{ all []*Image }

func parseImage(p *script.Parser) any {
	w := p.Next("image")
	if makers[w.Text] == nil {
		p.Fail(w, "unknown image %q; known: %s", w.Text, strings.Join(slices.Sorted(maps.Keys(makers)), ", "))
	}
	p.Back()
	i := &Image{Name: p.NewName("image"), owners: map[*site.Site]bool{}}
	l := script.Shared(p, func() *images { return &images{} })
	l.all = append(l.all, i)
	p.Declare(i.Name, i)
	return i
}

// Build implements stage.Builder.
func (l *images) Build(ctx context.Context, s *stage.Stage, phase stage.Phase) (err error) {
	if phase != stage.Prepare {
		return nil
	}
	for _, i := range l.all {
		if i.path, err = makers[i.Name](ctx, image.Options{}); err != nil {
			return err
		}
		if f := site.Of(s.Script); f != nil {
			f.Images = filepath.Dir(i.path) // they are all in the same cache
		}
	}
	return nil
}

// importTime is how long an import may take.
const importTime = 3 * time.Minute

// parseCreateImage takes what follows "create image".
func parseCreateImage(p *script.Parser) any {
	i := &Image{Name: p.NewName("image"), owners: map[*site.Site]bool{}}
	p.OneOf("of")
	i.of = ref(p)
	i.of.Owner.MustBeReal(p, p.Last(), "its disks have no content")
	if p.Is("disk") {
		i.disk = p.Next("disk").Text
	}
	p.Declare(i.Name, i)
	i.Name = stage.FreshName(p, i.Name)
	return i
}

// makeOf makes the image of its VM's disk.
func (i *Image) makeOf(ctx context.Context, s *stage.Stage) error {
	c := i.of.client()
	if _, err := api.Create(ctx, c, &api.Image{Meta: api.Meta{Name: i.Name}, Spec: api.ImageSpec{VM: i.of.name, Disk: i.disk}}); err != nil {
		return err
	}
	s.Undo("delete image "+i.Name, func(ctx context.Context) error { return gone[api.Image](ctx, c, i.Name) })
	if err := i.ready(ctx, c); err != nil {
		return err
	}
	o, err := api.Get[api.Image](ctx, c, i.Name)
	if err == nil {
		i.digest = o.Status.Digest
	}
	return err
}

// Do implements stage.Doer: it imports the image at every site that owns a VM of it,
// or at all if none does; or makes it of a VM's disk.
func (i *Image) Do(ctx context.Context, s *stage.Stage) error {
	if i.of != nil {
		return i.makeOf(ctx, s)
	}
	digest, err := fileDigest(i.path)
	if err != nil {
		return err
	}
	f := site.Of(s.Script)
	if f == nil {
		return nil // nobody could import it
	}
	return f.Each(ctx, func(ctx context.Context, at *site.Site) error {
		if len(i.owners) > 0 && !i.owners[at] {
			return nil
		}
		return i.importAt(ctx, at.Client(), digest)
	})
}

func (i *Image) importAt(ctx context.Context, c *api.Client, digest string) error {
	source := filepath.Join(stage.NodeImages, filepath.Base(i.path))
	if have, err := api.Get[api.Image](ctx, c, i.Name); err == nil && have.Spec.Digest == digest {
		return nil // what the script is played on has it
	}
	if _, err := api.Create(ctx, c, &api.Image{Meta: api.Meta{Name: i.Name}, Spec: api.ImageSpec{Source: source, Digest: digest}}); err != nil {
		return err
	}
	return i.ready(ctx, c)
}

// ready waits until the image is.
func (i *Image) ready(ctx context.Context, c *api.Client) error {
	return stage.Until(ctx, importTime, func(ctx context.Context) error {
		o, err := api.Get[api.Image](ctx, c, i.Name)
		switch {
		case err != nil:
			return err
		case o.Status.Phase == "failed":
			return fmt.Errorf("%w: import of %s: %s", stage.ErrGiveUp, i.Name, o.Status.Message)
		case o.Status.Phase != "ready":
			return fmt.Errorf("image %s is %s", i.Name, o.Status.Phase)
		}
		return nil
	})
}

// DeleteImage removes an image that was made of a VM.
type DeleteImage struct{ Image *Image }

func parseDeleteImage(p *script.Parser) any {
	at := p.Peek()
	i := script.Ref[*Image](p, "image")
	if i.of == nil {
		p.Fail(at, "image %s was not made of a VM: other scripts may need it", i.Name)
	}
	return &DeleteImage{i}
}

// Do implements stage.Doer.
func (d *DeleteImage) Do(ctx context.Context, _ *stage.Stage) error {
	return gone[api.Image](ctx, d.Image.of.client(), d.Image.Name)
}

// ImageAt expects that a host has the content of an image, or has it no more.
type ImageAt struct {
	Image  *Image
	Host   *site.Host
	There  bool
	Within time.Duration
}

func parseImageAt(p *script.Parser) any {
	e := &ImageAt{Image: script.Ref[*Image](p, "image")}
	p.OneOf("at")
	e.Host = script.Ref[*site.Host](p, "host")
	e.There = p.OneOf("there", "gone") == "there"
	e.Within = p.Within(time.Minute)
	return e
}

// Judge implements stage.Judge.
func (e *ImageAt) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	digest := e.Image.digest
	if e.Image.of == nil {
		var err error
		if digest, err = fileDigest(e.Image.path); err != nil {
			return "", err
		}
	}
	start := time.Now()
	err := stage.Until(ctx, e.Within, func(context.Context) error {
		there, err := e.Host.HasBase(digest)
		if err == nil && there != e.There {
			err = fmt.Errorf("%s has the content of image %s: %t", e.Host.Name(), e.Image.Name, there)
		}
		return err
	})
	return fmt.Sprintf("after %.1f s", time.Since(start).Seconds()), err
}

// ImageRefused expects that no image can be made of a VM's disk now.
type ImageRefused struct {
	VM      *VM
	Because string // a reason's code; "": whatever
}

func parseImageRefused(p *script.Parser) any {
	r := &ImageRefused{VM: ref(p)}
	p.OneOf("refused")
	if p.Is("because") {
		r.Because = p.Next("a reason's code").Text
	}
	return r
}

// Judge implements stage.Judge.
func (r *ImageRefused) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	_, err := api.Create(ctx, r.VM.client(), &api.Image{Meta: api.Meta{Name: "of-" + r.VM.name}, Spec: api.ImageSpec{VM: r.VM.name}})
	return refusedBecause(err, r.Because)
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// Adopt implements stage.Adopter.
func (l *images) Adopt(_ context.Context, _ *stage.Stage, base *script.Script) error {
	b, ok := script.Has[*images](base)
	for _, i := range l.all {
		at := -1
		if ok {
			at = slices.IndexFunc(b.all, func(o *Image) bool { return o.Name == i.Name })
		}
		if at < 0 {
			return fmt.Errorf("the base has no image %s", i.Name)
		}
		i.path = b.all[at].path
	}
	return nil
}
