package volume_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"widecloud/api"
	"widecloud/internal/volume"
	"widecloud/internal/volume/seed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

func open(t *testing.T, dir string) *volume.Store {
	t.Helper()
	s, err := volume.Open(volume.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// noise is n bytes that are the same in each run, and no image of any known format.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func digest(b []byte) volume.Digest {
	return volume.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(b)))
}

func qemuImg(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	// It takes the time of its own key derivation, and gives up if a clock of too few
	// ticks has not moved meanwhile (crypto/pbkdf.c).
	for try := 0; err != nil && bytes.Contains(out, []byte("Unable to get accurate CPU usage")) && try < 10; try++ {
		out, err = exec.Command("qemu-img", args...).CombinedOutput()
	}
	if err != nil {
		t.Fatalf("qemu-img %v: %v: %s", args, err, out)
	}
	return out
}

// qcow2 is a qcow2 of 8 MiB with a mebibyte of noise in it, as qemu-img makes it.
func qcow2(t *testing.T, options ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	content := append(make([]byte, 3*mib), noise(mib)...)
	if err := os.WriteFile(raw, append(content, make([]byte, 4*mib)...), 0o600); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, options...), raw, path)...)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tree is every file of a directory with its size and mode, for "nothing changed".
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		out[path] = fmt.Sprintf("%v %d", st.Mode(), st.Size())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func importBytes(t *testing.T, s *volume.Store, b []byte) volume.Base {
	t.Helper()
	format := "raw"
	if bytes.HasPrefix(b, []byte("QFI\xfb")) {
		format = "qcow2"
	}
	base, err := imported(context.Background(), s, bytes.NewReader(b), volume.Import{Format: format})
	if err != nil {
		t.Fatal(err)
	}
	return base
}

// imported imports a base and lets it go, as one that is used already.
func imported(ctx context.Context, s *volume.Store, r io.Reader, i volume.Import) (volume.Base, error) {
	b, release, err := s.ImportBase(ctx, r, i)
	if err == nil {
		release()
	}
	return b, err
}

// sweep removes the bases that no volume is over.
func sweep(t *testing.T, s *volume.Store) (removed []volume.Digest) {
	t.Helper()
	removed, err := s.Sweep(context.Background(), func(volume.Digest) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	return removed
}

func TestBaseKeepsItsBytes(t *testing.T) {
	sparse := append(make([]byte, 5*mib), noise(mib/2)...)
	for name, tc := range map[string]struct {
		bytes   []byte
		format  volume.Format
		virtual int64
	}{
		"raw":              {noise(3 * mib), volume.Raw, 3 * mib},
		"raw sparse":       {append(sparse, make([]byte, mib/2)...), volume.Raw, 6 * mib},
		"raw one sector":   {noise(512), volume.Raw, 512},
		"qcow2":            {qcow2(t), volume.Qcow2, 8 * mib},
		"qcow2 v2":         {qcow2(t, "-o", "compat=0.10"), volume.Qcow2, 8 * mib},
		"qcow2 zlib":       {qcow2(t, "-c"), volume.Qcow2, 8 * mib},
		"qcow2 zstd":       {qcow2(t, "-c", "-o", "compression_type=zstd"), volume.Qcow2, 8 * mib},
		"qcow2 subcluster": {qcow2(t, "-o", "extended_l2=on,cluster_size=128k"), volume.Qcow2, 8 * mib},
		"qcow2 small":      {qcow2(t, "-o", "cluster_size=512"), volume.Qcow2, 8 * mib},
		"qcow2 large":      {qcow2(t, "-o", "cluster_size=2M"), volume.Qcow2, 8 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			want := volume.Base{Digest: digest(tc.bytes), Format: tc.format, Bytes: int64(len(tc.bytes)), VirtualBytes: tc.virtual}
			want.Path = filepath.Join(dir, "base", string(want.Digest[7:])+"."+string(tc.format))
			size := int64(len(tc.bytes))
			imp := volume.Import{Digest: want.Digest, Format: string(tc.format), Bytes: size, Limit: size}
			got, err := imported(context.Background(), s, bytes.NewReader(tc.bytes), imp)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("imported (-want +got):\n%s", d)
			}
			st, err := os.Stat(got.Path)
			if err != nil || st.Mode() != 0o444 {
				t.Fatalf("the base's mode is %v, %v", st.Mode(), err)
			}
			f, b, err := s.OpenBase(want.Digest)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if sent, err := io.ReadAll(f); err != nil || !bytes.Equal(sent, tc.bytes) || b.Bytes != int64(len(sent)) {
				t.Fatalf("OpenBase gives other bytes than were imported (%d, %v)", len(sent), err)
			}
			// Once more: read again, and the same.
			again, err := imported(context.Background(), s, bytes.NewReader(tc.bytes), imp)
			if err != nil || again != want {
				t.Fatalf("a second import: %+v, %v", again, err)
			}
			s.Close()
			bases, err := open(t, dir).Bases()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff([]volume.Base{want}, bases); d != "" {
				t.Fatalf("after a restart (-want +got):\n%s", d)
			}
		})
	}
}

func TestImportTakesHolesForZeros(t *testing.T) {
	s := open(t, t.TempDir())
	b := importBytes(t, s, append(make([]byte, 64*mib), noise(mib)...))
	var st syscall.Stat_t
	if err := syscall.Stat(b.Path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > 2*mib {
		t.Errorf("65 MiB with one of data take %d bytes", st.Blocks*512)
	}
}

// brokenAfter gives its bytes and then the error.
type brokenAfter struct {
	r   io.Reader
	err error
}

func (b brokenAfter) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = b.err
	}
	return n, err
}

func TestImportRefusals(t *testing.T) {
	dir := t.TempDir()
	s, err := volume.Open(volume.Options{Dir: dir, MaxVirtualBytes: 64 * mib, MaxBytes: 32 * mib})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := tree(t, dir)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	raw := noise(mib)
	big := filepath.Join(t.TempDir(), "big")
	qemuImg(t, "create", "-q", "-f", "qcow2", big, "65M")
	bigBytes, _ := os.ReadFile(big)
	for name, tc := range map[string]struct {
		ctx    context.Context
		r      io.Reader
		want   volume.Digest
		format string
		limit  int64
		bytes  int64  // announced
		field  string // of an *api.Error
		is     error
	}{
		"wrong digest":           {r: bytes.NewReader(raw), format: "raw", want: digest([]byte("other")), field: "spec.digest"},
		"digest with a path":     {r: bytes.NewReader(raw), want: "sha256:../../etc/passwd", field: "spec.digest"},
		"digest in capitals":     {r: bytes.NewReader(raw), want: volume.Digest(bytes.ToUpper([]byte(digest(raw)))), field: "spec.digest"},
		"digest of another kind": {r: bytes.NewReader(raw), want: "md5:d41d8cd98f00b204e9800998ecf8427e", field: "spec.digest"},
		"unknown format":         {r: bytes.NewReader(raw), format: "vmdk", field: "spec.format"},
		"raw that is qcow2":      {r: bytes.NewReader(qcow2(t)), format: "raw", field: "spec.format"},
		"qcow2 that is raw":      {r: bytes.NewReader(raw), format: "qcow2", field: "spec.format"},
		"raw undeclared":         {r: bytes.NewReader(raw), field: "spec.format"},
		"one sector of anything": {r: bytes.NewReader(raw[:512]), field: "spec.format"},
		"larger than the limit":  {r: bytes.NewReader(raw), format: "raw", limit: mib - 1, field: "spec.source"},
		"larger than any may be": {r: bytes.NewReader(noise(33 * mib)), format: "raw", field: "spec.source"},
		"announced too large":    {r: unread{t}, format: "raw", bytes: 33 * mib, field: "spec.source"},
		"announced over a limit": {r: unread{t}, format: "raw", bytes: mib, limit: mib - 1, field: "spec.source"},
		"announced for no disk":  {r: unread{t}, format: "raw", bytes: 1 << 62, limit: 1 << 62, field: "spec.source"},
		"more than announced":    {r: bytes.NewReader(raw), format: "raw", bytes: mib - 1, field: "spec.source"},
		"less than announced":    {r: bytes.NewReader(raw), format: "raw", bytes: mib + 1, field: "spec.source"},
		"disk over the limit":    {r: bytes.NewReader(bigBytes), field: "spec.source"},
		"empty":                  {r: bytes.NewReader(nil), field: "spec.source"},
		"source cut off":         {r: brokenAfter{bytes.NewReader(raw), io.ErrUnexpectedEOF}, is: io.ErrUnexpectedEOF},
		"source failed":          {r: brokenAfter{bytes.NewReader(raw), os.ErrPermission}, is: os.ErrPermission},
		"cancelled":              {ctx: cancelled, r: bytes.NewReader(raw), is: context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.ctx == nil {
				tc.ctx = context.Background()
			}
			_, err := imported(tc.ctx, s, tc.r, volume.Import{Digest: tc.want, Format: tc.format, Limit: tc.limit, Bytes: tc.bytes})
			var e *api.Error
			switch {
			case err == nil:
				t.Fatal("imported")
			case tc.is != nil && !errors.Is(err, tc.is):
				t.Errorf("error is %v, want %v", err, tc.is)
			case tc.field != "" && (!errors.As(err, &e) || e.Code != api.CodeInvalid || e.Field != tc.field):
				t.Errorf("error is %v, want one of field %s", err, tc.field)
			}
			if d := cmp.Diff(before, tree(t, dir)); d != "" {
				t.Errorf("the directory changed (-before +after):\n%s", d)
			}
		})
	}
}

func TestVolume(t *testing.T) {
	ctx := context.Background()
	for _, format := range []volume.Format{volume.Raw, volume.Qcow2} {
		t.Run(string(format), func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			content := noise(2*mib + 512) // no whole number of MiB
			if format == volume.Qcow2 {
				content = qcow2(t)
			}
			b := importBytes(t, s, content)
			for id, sizeMiB := range map[string]int64{"own-size": 0, "larger": 100} {
				v, err := s.Create(ctx, id, b.Digest, sizeMiB)
				if err != nil {
					t.Fatal(err)
				}
				want := volume.Volume{ID: id, Path: filepath.Join(dir, "volume", id+".qcow2"), Format: volume.Qcow2,
					Base: b.Digest, BasePath: b.Path, BaseFormat: format, VirtualBytes: b.VirtualBytes}
				if sizeMiB > 0 {
					want.VirtualBytes = sizeMiB * mib
				}
				if d := cmp.Diff(want, v); d != "" {
					t.Errorf("created (-want +got):\n%s", d)
				}
				// What QEMU makes of it, on its own.
				var q struct {
					Backing string `json:"full-backing-filename"`
					Format  string `json:"backing-filename-format"`
					Virtual int64  `json:"virtual-size"`
				}
				if err := json.Unmarshal(qemuImg(t, "info", "--output=json", v.Path), &q); err != nil {
					t.Fatal(err)
				}
				if q.Backing != b.Path || q.Format != string(format) || q.Virtual != want.VirtualBytes {
					t.Errorf("qemu-img sees %+v", q)
				}
				// Written to, and asked for again: it is kept as it is.
				qemuIO(t, v.Path, "write -P 7 0 1M")
				if again, err := s.Create(ctx, id, b.Digest, sizeMiB); err != nil || again != v {
					t.Errorf("created again: %+v, %v", again, err)
				}
				qemuIO(t, v.Path, "read -P 7 0 1M")
				u, err := s.Stat(ctx, id)
				if err != nil || u.Volume != v || u.AllocatedBytes < mib || u.AllocatedBytes > 3*mib {
					t.Errorf("stat: %+v, %v", u, err)
				}
			}
			_, err := s.Create(ctx, "larger", b.Digest, 101)
			if !errors.Is(err, &api.Error{Code: api.CodeExists, Field: "id"}) {
				t.Errorf("created with another size: %v", err)
			}
			list, err := s.List(ctx)
			if err != nil || len(list) != 2 || list[0].ID != "larger" || list[1].ID != "own-size" {
				t.Errorf("list: %+v, %v", list, err)
			}
			for _, u := range list {
				if removed := sweep(t, s); removed != nil {
					t.Errorf("removed a base in use: %v", removed)
				}
				for range 2 { // idempotent
					if err := s.Remove(ctx, u.ID); err != nil {
						t.Error(err)
					}
				}
				if _, err := s.Stat(ctx, u.ID); !errors.Is(err, volume.ErrNotFound) {
					t.Errorf("stat of a removed volume: %v", err)
				}
			}
			if now, err := os.ReadFile(b.Path); err != nil || !bytes.Equal(now, content) {
				t.Errorf("the base is not what it was: %v", err)
			}
			if d := cmp.Diff([]volume.Digest{b.Digest}, sweep(t, s)); d != "" {
				t.Errorf("swept (-want +got):\n%s", d)
			}
			if removed := sweep(t, s); removed != nil {
				t.Errorf("removed once more: %v", removed)
			}
			if s.HasBase(b.Digest) {
				t.Error("the base is still there")
			}
			if _, err := s.Create(ctx, "late", b.Digest, 0); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("created over a base that is gone: %v", err)
			}
		})
	}
}

// QEMU marks a volume that it works on, or found damaged. One such must not hide the others, and one that cannot be read
// must not let its base go.
func TestDamagedVolumes(t *testing.T) {
	ctx := context.Background()
	s := open(t, t.TempDir())
	b := importBytes(t, s, noise(mib))
	v, err := s.Create(ctx, "vm", b.Digest, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(v.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, mark := range []byte{1, 2, 3} { // dirty, corrupt, both
		if _, err := f.WriteAt([]byte{mark}, 79); err != nil {
			t.Fatal(err)
		}
		if list, err := s.List(ctx); err != nil || len(list) != 1 || list[0].Volume != v {
			t.Errorf("mark %d: %+v, %v", mark, list, err)
		}
	}
	if err := f.Truncate(1000); err != nil {
		t.Fatal(err)
	}
	var e *api.Error
	if _, err := s.List(ctx); err == nil || errors.As(err, &e) {
		t.Errorf("list with a volume that is cut off: %v", err)
	}
	nobody := func(volume.Digest) bool { return false }
	if removed, err := s.Sweep(ctx, nobody); err == nil || removed != nil || !s.HasBase(b.Digest) {
		t.Errorf("the base of a volume that cannot be read went: %v, %v", removed, err)
	}
	if err := s.Remove(ctx, "vm"); err != nil {
		t.Error(err)
	}
	if removed := sweep(t, s); len(removed) != 1 {
		t.Errorf("removed %v", removed)
	}
}

func qemuIO(t *testing.T, path, command string) {
	t.Helper()
	if out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", command, path).CombinedOutput(); err != nil || bytes.Contains(out, []byte("failed")) {
		t.Fatalf("qemu-io %s: %v: %s", command, err, out)
	}
}

func TestCreateRefusals(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := open(t, dir)
	b := importBytes(t, s, noise(3*mib))
	before := tree(t, dir)
	for name, tc := range map[string]struct {
		id    string
		base  volume.Digest
		size  int64
		field string
	}{
		"id climbs":        {"../base/x", b.Digest, 0, "id"},
		"id is absolute":   {"/etc/passwd", b.Digest, 0, "id"},
		"id is an option":  {"-o", b.Digest, 0, "id"},
		"id has a NUL":     {"a\x00b", b.Digest, 0, "id"},
		"id has a newline": {"a\n", b.Digest, 0, "id"},
		"id is hidden":     {".a", b.Digest, 0, "id"},
		"id is a protocol": {"nbd:host", b.Digest, 0, "id"},
		"id is empty":      {"", b.Digest, 0, "id"},
		"id is long":       {string(bytes.Repeat([]byte("a"), 65)), b.Digest, 0, "id"},
		"digest climbs":    {"a", "sha256:../../../../etc/passwd", 0, "spec.digest"},
		"size under base":  {"a", b.Digest, 2, "spec.size_mib"},
		"size negative":    {"a", b.Digest, -1, "spec.size_mib"},
		"size absurd":      {"a", b.Digest, 1 << 62, "spec.size_mib"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Create(ctx, tc.id, tc.base, tc.size)
			if !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: tc.field}) {
				t.Errorf("error is %v, want one of field %s", err, tc.field)
			}
			if tc.field == "id" {
				_, serr := s.Seed(ctx, tc.id, seedData)
				_, terr := s.Stat(ctx, tc.id)
				for i, err := range []error{serr, terr, s.Remove(ctx, tc.id)} {
					if !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "id"}) {
						t.Errorf("call %d: %v", i, err)
					}
				}
			}
			if d := cmp.Diff(before, tree(t, dir)); d != "" {
				t.Errorf("the directory changed (-before +after):\n%s", d)
			}
		})
	}
}

var seedData = seed.Data{UID: "7f2c", Hostname: "web1", NICs: []seed.NIC{{MAC: "52:54:00:00:00:01", MTU: 1430}}}

func TestSeed(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := open(t, dir)
	path, err := s.Seed(ctx, "7f2c", seedData)
	if err != nil {
		t.Fatal(err)
	}
	want, err := seed.Image(seedData)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the seed is not the image of its data: %v", err)
	}
	first, _ := os.Stat(path)
	if _, err := s.Seed(ctx, "7f2c", seedData); err != nil {
		t.Fatal(err)
	}
	if second, _ := os.Stat(path); !os.SameFile(first, second) {
		t.Error("the same data made the file anew")
	}
	other := seedData
	other.Hostname = "web2"
	if _, err := s.Seed(ctx, "7f2c", other); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); bytes.Equal(got, want) {
		t.Error("other data did not change the seed")
	}
	if err := s.Remove(ctx, "7f2c"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the seed is still there: %v", err)
	}
}

func TestOpenIsExclusiveAndSweeps(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	b := importBytes(t, s, noise(mib))
	if _, err := volume.Open(volume.Options{Dir: dir}); !errors.Is(err, volume.ErrInUse) {
		t.Fatalf("opened twice: %v", err)
	}
	s.Close()
	for _, d := range []string{"", "relative", "/tmp/with space", "/tmp/with:colon", "/tmp/with,comma"} {
		if _, err := volume.Open(volume.Options{Dir: d}); err == nil {
			t.Errorf("opened %q", d)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "tmp", "import-123"), noise(100), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tmp", "volume-1", "overlay"), 0o700); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if !s.HasBase(b.Digest) {
		t.Error("the base went with the sweep")
	}
}
