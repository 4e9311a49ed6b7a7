package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// systemd needs a control group of its own. It is a directory in the machine's
// hierarchies, so it outlives its processes, and a killed program.

// cgroupRoot is where the machine has its control groups.
const cgroupRoot = "/sys/fs/cgroup"

// cgroupHierarchies are those in which a machine gets a group: systemd's own of
// version 1 and the one of version 2 beside it, or the only one of version 2.
func cgroupHierarchies() []string {
	var l []string
	for _, d := range []string{"systemd", "unified", "."} {
		d = filepath.Join(cgroupRoot, d)
		if _, err := os.Stat(filepath.Join(d, "cgroup.procs")); err == nil {
			l = append(l, d)
		}
	}
	return l
}

// cgroupName is of a node, or with "*" a pattern of all of a lab. Names of labs
// and nodes have no dots.
func cgroupName(lab, node string) string { return "wcclab." + lab + "." + node }

// makeCgroups returns the directories of the node's groups, made if need be.
func makeCgroups(lab, node string) ([]string, error) {
	var dirs []string
	for _, h := range cgroupHierarchies() {
		d := filepath.Join(h, cgroupName(lab, node))
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make control group: %w", err)
		}
		dirs = append(dirs, d)
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("make control group: %s has neither systemd's hierarchy nor version 2", cgroupRoot)
	}
	return dirs, nil
}

// cgroups lists the groups of a node, or with "*" of a whole lab ("*": of all labs).
func cgroups(lab, node string) []string {
	var l []string
	for _, h := range cgroupHierarchies() {
		found, err := filepath.Glob(filepath.Join(h, cgroupName(lab, node)))
		if err != nil {
			panic(err) // a bad pattern
		}
		l = append(l, found...)
	}
	return l
}

// removeCgroups removes groups whose processes have ended, with those in them.
func removeCgroups(dirs []string) error {
	var errs []error
	for _, top := range dirs {
		var all []string
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, d := range slices.Backward(all) { // what is inside first
			if err := removeCgroup(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("remove control group: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// dying is how long processes that were killed may take to leave their control group.
const dying = 10 * time.Second

// removeCgroup removes a group as soon as the last of its processes has left it: one that was killed stays in it for a moment after
// nobody can see it any more.
func removeCgroup(dir string) error {
	for end := time.Now().Add(dying); ; time.Sleep(10 * time.Millisecond) {
		if err := os.Remove(dir); !errors.Is(err, syscall.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}
