package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Key is the key of a cached thing: a hash of all that it is made of.
func Key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s,", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Cached is a directory that is dear to make and always the same for a key: the
// artefact KIND/KEY of the user's cache. If it is not there, it is made in a
// directory aside, by one program at a time, and appears whole or not at all.
func Cached(ctx context.Context, kind, key string, build func(ctx context.Context, dir string) error) (string, error) {
	base, err := CacheDir()
	if err != nil {
		return "", err
	}
	base = filepath.Join(base, kind)
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(base, key)
	unlock, err := lockFile(path + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	aside := path + ".part"
	if err := errors.Join(os.RemoveAll(aside), os.Mkdir(aside, 0o755)); err != nil { // there is one if a program was killed
		return "", err
	}
	if err := build(ctx, aside); err != nil {
		return "", errors.Join(err, os.RemoveAll(aside))
	}
	if err := os.Rename(aside, path); err != nil {
		return "", errors.Join(err, os.RemoveAll(aside))
	}
	return path, nil
}

// lockFile takes a file for this caller alone, also among programs.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", strings.TrimSuffix(path, ".lock"), err)
	}
	return func() { f.Close() }, nil
}

// CacheDir is where what is dear to make is kept between labs.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "widecloud")
	return dir, os.MkdirAll(dir, 0o755)
}

// Environ is the environment of what makes an artefact. It says that this is of no lab: others may run at the time, and must
// not take it for what they have left.
func Environ(more ...string) []string {
	return append(append(os.Environ(), "WIDECLOUD_LAB=-"), more...)
}
