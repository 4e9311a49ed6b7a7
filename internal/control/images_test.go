package control_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// TestStalledImage: one peer's image stream stands still. The images of another peer's guests must come all the same.
func TestStalledImage(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka", "kyoto"}}, func(t *testing.T, w *world) {
		tokyo, kyoto := w.sites["tokyo"], w.sites["kyoto"]
		w.lend("osaka", "tokyo", room())
		w.lend("osaka", "kyoto", room())
		tokyo.startWith(nil, instead(func(mux *http.ServeMux) {
			wire.HandleStream(mux, wire.PathFedImage, func(ctx context.Context, _ wire.Identity, _ wire.ImageHeader, s *wire.Stream) error {
				if err := s.Accept(); err != nil {
					return err
				}
				io.WriteString(s, "\x00\x00\x00\x00\x00\x00\x40\x00raw\n") // 16 KiB will come, and never do
				<-ctx.Done()
				return ctx.Err()
			})
		}))
		w.connected()
		tokyo.ready("2001:db8:a::/64")
		w.image = append([]byte("another one"), make([]byte, 64<<10-11)...)
		kyoto.ready("2001:db8:c::/64")
		tokyo.create(vmOf("slow", "osaka"))
		time.Sleep(10 * time.Second)
		kyoto.create(vmOf("honest", "osaka"))
		if !soon(30*time.Second, func() bool { return kyoto.vm("honest").Status.Phase == api.PhaseRunning }) {
			t.Errorf("kyoto's guest at osaka is %s (%q) because tokyo's image does not come", kyoto.vm("honest").Status.Phase, kyoto.vm("honest").Status.Message)
		}
		// The one that stands still is given up, with a reason.
		w.until("the stall is said", func() bool { return tokyo.vm("slow").Status.Phase == api.PhaseFailed })
	})
}

// TestImageOfTwoHomes: two homes have guests of the same image; one of them does not send it. The other's guests start all the same.
func TestImageOfTwoHomes(t *testing.T) {
	federation(t, options{sites: []string{"kobe", "osaka", "kyoto"}}, func(t *testing.T, w *world) {
		kobe, kyoto := w.sites["kobe"], w.sites["kyoto"]
		w.lend("osaka", "kobe", room())
		w.lend("osaka", "kyoto", room())
		kobe.startWith(nil, instead(func(mux *http.ServeMux) {
			wire.HandleStream(mux, wire.PathFedImage, func(context.Context, wire.Identity, wire.ImageHeader, *wire.Stream) error {
				return api.Errorf(api.CodeNotFound, "no")
			})
		}))
		w.connected()
		kobe.ready("2001:db8:a::/64")
		kyoto.ready("2001:db8:c::/64")
		kobe.create(vmOf("bad", "osaka"))
		time.Sleep(5 * time.Second)
		kyoto.newVM("good", "osaka")
	})
}

// TestImageBeyondLoan: a guest's base image takes no more of the lender's disk than the loan has for it, whatever is announced,
// and whatever comes.
func TestImageBeyondLoan(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		loan := w.lend("osaka", "tokyo", api.Resources{CPUs: 2, MemoryMiB: 512, DiskGiB: 2})
		asked := make(chan int64, 10)
		tokyo.startWith(nil, instead(func(mux *http.ServeMux) {
			wire.HandleStream(mux, wire.PathFedImage, func(ctx context.Context, _ wire.Identity, _ wire.ImageHeader, s *wire.Stream) error {
				if err := s.Accept(); err != nil {
					return err
				}
				io.WriteString(s, "\x00\x00\x10\x00\x00\x00\x00\x00raw\n") // 16 TiB
				var n int64
				for zeros := make([]byte, 1<<20); n < 64<<20; {
					m, err := s.Write(zeros)
					n += int64(m)
					if err != nil {
						break
					}
				}
				asked <- n
				return nil
			})
			wire.Handle(mux, wire.PathFedStatus, func(context.Context, wire.Identity, wire.GuestReport) (wire.Empty, error) { return wire.Empty{}, nil }) // it would end a VM that it does not know
		}))
		w.connected()
		s, err := tokyo.fed.Session("osaka", false)
		w.must(err)
		c := evilClaim(loan.Name)
		c.Image = 3 << 30
		err = wire.Call(t.Context(), s, http.MethodPost, wire.PathFedReserve, c, &wire.Claim{})
		wantField(t, "an image larger than what is said to be needed", err, api.CodeInvalid, "needs.disk_gib")
		c.Needs.DiskGiB = 4
		err = wire.Call(t.Context(), s, http.MethodPost, wire.PathFedReserve, c, &wire.Claim{})
		wantError(t, "an image larger than the loan", err, api.CodeRefused)
		c.Image, c.Needs.DiskGiB = 64<<10, 1
		w.must(wire.Call(t.Context(), s, http.MethodPost, wire.PathFedReserve, c, &wire.Claim{}))
		if n := <-asked; n > 4<<20 {
			t.Errorf("osaka has taken %d MiB of an image that was announced with 64 KiB", n>>20)
		}
		time.Sleep(10 * time.Second)
		if got := osaka.loan(loan.Name).Status.Used.DiskGiB; got != 1 {
			t.Errorf("the loan counts %d GiB", got)
		}
	})
}

// TestImageTakesOneContent: of uploads at once one is taken; a ready image never changes.
func TestImageTakesOneContent(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.create(&api.Image{Meta: api.Meta{Name: "one"}, Spec: api.ImageSpec{Format: "raw"}})
		content := func(i int) []byte { return bytes.Repeat([]byte{byte(i), 1}, 512) }
		var all sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			all.Go(func() {
				r, pipe := io.Pipe()
				go func() {
					pipe.Write(content(i)[:512])
					time.Sleep(time.Second)
					pipe.Write(content(i)[512:])
					pipe.Close()
				}()
				_, errs[i] = tokyo.ctl.Upload(t.Context(), tokyo.admin, "one", r)
				r.Close()
			})
		}
		all.Wait()
		taken := -1
		for i, err := range errs {
			if err == nil && taken >= 0 {
				t.Errorf("uploads %d and %d were both taken", taken, i)
			} else if err == nil {
				taken = i
			} else {
				wantError(t, fmt.Sprintf("upload %d", i), err, api.CodeConflict)
			}
		}
		if taken < 0 {
			t.Fatalf("none was taken: %v", errs)
		}
		sum := sha256.Sum256(content(taken))
		o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindImage, "one")
		if err != nil || o.(*api.Image).Status.Digest != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Errorf("the image is %+v, %v", o, err)
		}
		_, err = tokyo.ctl.Upload(t.Context(), tokyo.admin, "one", bytes.NewReader(content(9)))
		wantError(t, "another content", err, api.CodeConflict)
	})
}

// TestDigestIsNotContent: who knows an image's digest does not have its content by that.
func TestDigestIsNotContent(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindImage, "tiny")
		w.must(err)
		digest := o.(*api.Image).Status.Digest
		ann, _ := tokyo.member("ann", "lab")
		if _, err := tokyo.ctl.Create(t.Context(), ann, &api.Image{Meta: api.Meta{Name: "guess"}, Spec: api.ImageSpec{Digest: digest, Format: "raw"}}); err != nil {
			t.Fatal(err)
		}
		_, err = tokyo.ctl.Upload(t.Context(), ann, "guess", bytes.NewReader(make([]byte, 512)))
		wantField(t, "an upload of other bytes", err, api.CodeInvalid, "spec.digest")
	})
}

// TestDeletedImageEndsItsImport: the deletion of an image ends the upload that is under way.
func TestDeletedImageEndsItsImport(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.create(&api.Image{Meta: api.Meta{Name: "one"}, Spec: api.ImageSpec{Format: "raw"}})
		r, pipe := io.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := tokyo.ctl.Upload(t.Context(), tokyo.admin, "one", r)
			r.Close()
			done <- err
		}()
		pipe.Write(make([]byte, 512))
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindImage, "one"); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := pipe.Write(make([]byte, 512)); err != nil {
				break
			}
		}
		wantError(t, "the upload", <-done, api.CodeConflict)
		if _, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindImage, "one"); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			t.Errorf("the image: %v", err)
		}
	})
}

// TestUnusedImagesGo: a base image is removed from hosts and controllers, its home's and the lender's, some time after nothing
// is made from it any more; one that is in use, or was just now, stays.
func TestUnusedImagesGo(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindImage, "tiny")
		w.must(err)
		digest := o.(*api.Image).Status.Digest
		here := func() string {
			return fmt.Sprint(tokyo.images.HasBase(volume.Digest(digest)), osaka.images.HasBase(volume.Digest(digest)), osaka.hosts["h1"].disks.hasBase(digest))
		}
		tokyo.newVM("web1", "osaka")
		time.Sleep(80 * time.Minute)
		if got := here(); got != "true true true" {
			t.Errorf("an image in use is at home, at the lender and at its host: %s", got)
		}
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "web1"); err != nil {
			t.Fatal(err)
		}
		tokyo.gone("web1")
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindImage, "tiny"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		if got := here(); got != "true true true" {
			t.Errorf("20 minutes after its last use: %s", got)
		}
		time.Sleep(time.Hour)
		if got := here(); got != "false false false" {
			t.Errorf("80 minutes after its last use: %s", got)
		}
	})
}

// TestImageFromPrivateAddress: a user's URL leads neither to private addresses nor to this site's own hosts.
func TestImageFromPrivateAddress(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		ann, _ := tokyo.member("ann", "lab")
		host, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindHost, "h1")
		w.must(err)
		for name, at := range map[string]string{
			"loopback": "127.0.0.1", "private": "10.0.0.7", "wrapped": "[64:ff9b::a00:7]", "host": "[" + host.(*api.Host).Status.VTEP + "]",
		} {
			if _, err := tokyo.ctl.Create(t.Context(), ann, &api.Image{Meta: api.Meta{Name: name},
				Spec: api.ImageSpec{Source: "http://" + at + ":1/secrets", Format: "raw"}}); err != nil {
				t.Fatal(err)
			}
			image := func() api.ImageStatus {
				o, err := tokyo.ctl.Get(t.Context(), ann, api.KindImage, name)
				w.must(err)
				return o.(*api.Image).Status
			}
			w.until("the import has ended", func() bool { return image().Phase != "importing" && image().Phase != "" })
			if got := image(); got.Phase != "failed" || !strings.Contains(got.Message, "may not be fetched from") {
				t.Errorf("%s: the image is %s: %q", at, got.Phase, got.Message)
			}
		}
	})
}
