package image_test

import (
	"os"
	"path/filepath"
	"testing"

	"widecloud/internal/lab/image"
)

// TestSystem: each role's system has what the README names for it, and nothing of the others.
func TestSystem(t *testing.T) {
	for role, want := range map[image.Role]map[string]bool{
		image.Controller: {"usr/bin/qemu-img": true, "usr/sbin/libvirtd": false, "usr/sbin/nft": false},
		image.Gateway:    {"usr/bin/qemu-img": false, "usr/lib/frr/ospfd": true, "usr/sbin/nft": true},
	} {
		dir, err := image.System(t.Context(), role)
		if err != nil {
			t.Fatal(err)
		}
		for path, there := range want {
			if _, err := os.Stat(filepath.Join(dir, path)); (err == nil) != there {
				t.Errorf("a %s has %s: %v, want %t", role, path, err, there)
			}
		}
	}
}
