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

// Do implements stage.Doer: it imports the image at every site that owns a VM of it,
// or at all if none does.
func (i *Image) Do(ctx context.Context, s *stage.Stage) error {
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
