package volume

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestManyRefcounts: the reference counts of a large file, which take several blocks, are what QEMU expects. The file's clusters before
// the last one are a hole that nothing names: leaks by QEMU's word, and no error.
func TestManyRefcounts(t *testing.T) {
	for _, clusters := range []int64{1, refsPerBlock - 6, refsPerBlock - 5, refsPerBlock + 9} {
		path := filepath.Join(t.TempDir(), "x.qcow2")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b, err := newBuilder(f, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		b.at += clusters * clusterBytes
		if _, err := f.Seek(b.at, 0); err != nil {
			t.Fatal(err)
		}
		if err := b.data(1<<29, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := b.finish("", ""); err != nil {
			t.Fatal(err)
		}
		text, _ := exec.Command("qemu-img", "check", "--output=json", "-f", "qcow2", path).Output() // its status tells of the leaks
		var said struct {
			Leaks       int64 `json:"leaks"`
			Corruptions int64 `json:"corruptions"`
			Errors      int64 `json:"check-errors"`
		}
		if err := json.Unmarshal(text, &said); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if said.Leaks != clusters || said.Corruptions != 0 || said.Errors != 0 {
			t.Errorf("%d clusters: %+v", clusters, said)
		}
	}
}
