package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"widecloud/api"
)

var _ = present[imageGroup](api.KindImage,
	col("PHASE", func(o *api.Image) string { return o.Status.Phase }),
	col("FORMAT", func(o *api.Image) string { return o.Status.Format }),
	col("SIZE", func(o *api.Image) string { return sizeOr(o.Status.Bytes) }),
	col("DISK", func(o *api.Image) string { return sizeOr(o.Status.VirtualMiB << 20) }),
	wide("DIGEST", func(o *api.Image) string { return o.Status.Digest }),
	wide("SOURCE", imageSource),
	wide("MESSAGE", func(o *api.Image) string { return o.Status.Message }),
)

type imageGroup struct {
	List   listCmd        `cmd:"" help:"List images."`
	Show   showCmd        `cmd:"" help:"Show an image."`
	Import imageImportCmd `cmd:"" help:"Make an image from a file here, or from a URL or file that the controller reads."`
	Create imageCreateCmd `cmd:"" help:"Make an image of a disk of a stopped VM."`
	Delete deleteCmd      `cmd:"" help:"Delete images."`
}

// imageSource says what an image was made of.
func imageSource(o *api.Image) string {
	if o.Spec.VM != "" {
		return "VM " + o.Spec.VM + ", disk " + cmp.Or(o.Spec.Disk, api.RootDisk)
	}
	return o.Spec.Source
}

type imageCreateCmd struct {
	Name    string        `arg:"" help:"Its name."`
	FromVM  string        `required:"" name:"from-vm" help:"The VM. It must be stopped, and stays so until its disk has been read." placeholder:"VM" complete:"vms"`
	Disk    string        `help:"Which of its disks; left out: root." placeholder:"NAME"`
	Owner   string        `help:"Organisation that owns it; left out: the user's." complete:"owners"`
	Wait    bool          `help:"Wait until it is ready."`
	Timeout time.Duration `default:"30m" help:"How long --wait waits."`
	labelled
	format
}

func (c *imageCreateCmd) Run(a *app) error {
	labels, err := c.labels()
	if err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	i, err := api.Create(a, client, &api.Image{Meta: api.Meta{Name: c.Name, Owner: c.Owner, Labels: labels}, Spec: api.ImageSpec{VM: c.FromVM, Disk: c.Disk}})
	if err != nil {
		return err
	}
	if !c.Wait {
		return c.done(a, i, "is being made by job "+i.Status.Job)
	}
	if i, err = waitFor(a, c.Timeout, func(a *app) (*api.Image, error) { return waitImage(a, client, c.Name) }); err != nil {
		return err
	}
	return c.done(a, i, "ready")
}

type imageImportCmd struct {
	Name    string        `arg:"" help:"Its name."`
	Source  string        `arg:"" help:"A file, which is uploaded, or an http(s) URL, which the controller fetches."`
	Remote  bool          `help:"SOURCE is a file on the controller's machine."`
	Digest  string        `help:"The expected digest; nothing is kept if it is another. Of a file here it is computed." placeholder:"sha256:HEX"`
	Format  string        `help:"qcow2 or raw; left out: qcow2. A raw image must be declared." enum:",qcow2,raw" default:""`
	Owner   string        `help:"Organisation that owns it; left out: the user's." complete:"owners"`
	Wait    bool          `help:"Wait until it is ready."`
	Timeout time.Duration `default:"30m" help:"How long --wait waits."`
	labelled
	format
}

func (c *imageImportCmd) Run(a *app) error {
	labels, err := c.labels()
	if err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	i := &api.Image{Meta: api.Meta{Name: c.Name, Owner: c.Owner, Labels: labels}, Spec: api.ImageSpec{Source: c.Source, Digest: c.Digest, Format: c.Format}}
	local := !c.Remote && !strings.HasPrefix(c.Source, "http://") && !strings.HasPrefix(c.Source, "https://")
	if local {
		i, err = c.upload(a, client, i)
	} else {
		i, err = api.Create(a, client, i)
	}
	if err != nil {
		return err
	}
	if c.Wait {
		if i, err = waitFor(a, c.Timeout, func(a *app) (*api.Image, error) { return waitImage(a, client, c.Name) }); err != nil {
			return err
		}
	}
	switch {
	case i.Status.Phase == "ready":
		return c.done(a, i, "ready")
	case local:
		return c.done(a, i, "uploaded")
	}
	return c.done(a, i, "is being imported")
}

// upload makes an image of a file here. A file that is not what --digest says is not sent at all.
func (c *imageImportCmd) upload(a *app, client *api.Client, i *api.Image) (*api.Image, error) {
	f, err := os.Open(c.Source)
	if err != nil {
		return nil, usagef("open the image: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	length, err := io.Copy(h, f)
	if err != nil {
		return nil, fmt.Errorf("read the image: %w", err)
	}
	digest := "sha256:" + hex.EncodeToString(h.Sum(nil))
	if c.Digest != "" && c.Digest != digest {
		return nil, usagef("--digest: %s has %s, not %s", c.Source, digest, c.Digest)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the image: %w", err)
	}
	i.Spec.Source, i.Spec.Digest = "", digest
	if _, err := api.Create(a, client, i); err != nil {
		return nil, err
	}
	u := &uploading{Reader: f, a: a, name: c.Name, total: length}
	made, err := client.Upload(a, c.Name, u, length)
	u.end()
	if err != nil {
		err = fmt.Errorf("upload: %w", err)
		if _, derr := api.Delete[api.Image](a, client, c.Name); derr != nil {
			err = fmt.Errorf("%w (and image %s is left without content: %v)", err, c.Name, derr)
		}
		return nil, err
	}
	return made, nil
}

// uploading shows how much of a file is sent.
type uploading struct {
	io.Reader
	a           *app
	name        string
	done, total int64
	shown       int
}

func (u *uploading) Read(b []byte) (int, error) {
	n, err := u.Reader.Read(b)
	u.done += int64(n)
	p := api.Progress{DiskDone: u.done, DiskTotal: u.total}
	switch {
	case u.a.tty && percent(p) != u.shown:
		u.shown = percent(p)
		u.a.err.printf("\r\x1b[K%s", bar("upload "+size(u.done), p))
	case !u.a.tty && percent(p)/10 > u.shown/10 && u.total > 64<<20: // a small one is there before a line is read
		u.shown = percent(p)
		u.a.err.printf("%s: upload: %s\n", u.name, figures(p))
	}
	return n, err
}

func (u *uploading) end() {
	if u.a.tty && u.shown > 0 {
		u.a.err.printf("\n")
	}
}

func waitImage(a *app, client *api.Client, name string) (*api.Image, error) {
	for i, err := range api.Follow[api.Image](a, client, name) {
		switch {
		case err != nil:
			return nil, fmt.Errorf("wait for image %s: %w", name, err)
		case i.Status.Phase == "ready":
			return i, nil
		case i.Status.Phase == "failed":
			return nil, api.Errorf(api.CodeRefused, "image %s failed: %s", name, i.Status.Message)
		}
	}
	return nil, fmt.Errorf("wait for image %s: %w; the import goes on", name, cause(a))
}
