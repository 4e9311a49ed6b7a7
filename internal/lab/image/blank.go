package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// blankName is the image's file; its number counts changes of what it is.
const blankName = "blank-1.qcow2"

// Blank returns the path of an image of 1 MiB with nothing in it, for hosts that boot
// nothing.
func Blank(ctx context.Context, o Options) (string, error) {
	cache, err := imageCache(o.Cache)
	if err != nil {
		return "", fmt.Errorf("make blank image: %w", err)
	}
	unlock, err := lockDir(cache)
	if err != nil {
		return "", fmt.Errorf("make blank image: %w", err)
	}
	defer unlock()
	path := filepath.Join(cache, blankName)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if _, err := run(ctx, cache, "qemu-img", "create", "-q", "-f", "qcow2", path+".new", "1M"); err != nil {
		return "", fmt.Errorf("make blank image: %w", err)
	}
	return path, os.Rename(path+".new", path)
}
