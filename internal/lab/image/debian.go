package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// Geometry of the Debian image, in bytes.
const (
	debianBootSize = 128 << 20
	debianRootSize = 1792 << 20
	debianDiskSize = 2 << 30
	debianSuite    = "bookworm"
	debianBuilder  = "1" // counts changes of this file that change the image
)

// debianPackages is a Debian that cloud-init can configure and a person can log
// in to, and no more.
var debianPackages = []string{
	"linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus", "zstd", "cloud-init", "netplan.io", "iproute2",
	"openssh-server", "python3-minimal", "curl", "ca-certificates",
}

const debianCmdline = "root=/dev/vda2 rw console=ttyS0 quiet net.ifnames=0 mitigations=off random.trust_cpu=on tsc=reliable no_timer_check cryptomgr.notests"

// debianSetup runs in the new system's root directory ($1) before it is packed.
const debianSetup = `set -eu
cd "$1"
cat >etc/cloud/cloud.cfg.d/90-widecloud.cfg <<-EOT
	datasource_list: [NoCloud, None]
	package_update: false
	locale: false
	ssh_genkeytypes: [ed25519]
	EOT
: >etc/machine-id
rm -f etc/hostname etc/ssh/ssh_host_*
printf '/dev/vda2 / ext4 defaults 0 1\n' >etc/fstab
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service man-db.timer; do
	ln -sf /dev/null "etc/systemd/system/$unit"
done
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/* usr/share/doc/* usr/share/man/* usr/share/locale/*
`

// Debian returns the path of a bootable qcow2 image of a whole Debian with
// cloud-init and its NoCloud data source, 2 GiB large for the guest. It takes
// some minutes to make and is kept in the cache. Under emulation it takes
// minutes to boot, too: it is for the one example that shows a real guest.
func Debian(ctx context.Context, o Options) (string, error) {
	path, err := debianImage(ctx, o)
	if err != nil {
		return "", fmt.Errorf("make Debian image: %w", err)
	}
	return path, nil
}

func debianImage(ctx context.Context, o Options) (string, error) {
	cache, err := imageCache(o.Cache)
	if err != nil {
		return "", err
	}
	unlock, err := lockDir(filepath.Join(cache, "debian")) // minutes: the tiny image need not wait
	if err != nil {
		return "", err
	}
	defer unlock()
	mbr, err := bootCode()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, debianBuilder, debianSuite, debianPackages, debianCmdline, debianSetup, hex.EncodeToString(mbr))
	path := filepath.Join(cache, "debian-"+hex.EncodeToString(h.Sum(nil))[:16]+".qcow2")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	tmp, err := os.MkdirTemp(cache, "build-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := buildDebian(ctx, tmp, mbr); err != nil {
		return "", err
	}
	return path, os.Rename(filepath.Join(tmp, "disk.qcow2"), path)
}

func buildDebian(ctx context.Context, dir string, mbr []byte) error {
	setup := filepath.Join(dir, "setup")
	if err := os.WriteFile(setup, []byte("#!/bin/sh\n"+debianSetup), 0o755); err != nil {
		return err
	}
	tree := filepath.Join(dir, "tree")
	if err := mmdebstrap(ctx, dir, debianPackages, setup, "tree"); err != nil {
		return err
	}
	b := bootPartition{size: debianBootSize, files: map[string]string{}, cmdline: debianCmdline}
	for name, pattern := range map[string]string{"vmlinuz": "boot/vmlinuz-*", "initrd": "boot/initrd.img-*"} {
		found, err := filepath.Glob(filepath.Join(tree, pattern))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("%s: %d files, want 1", pattern, len(found))
		}
		b.files[name] = found[0]
	}
	disk := filepath.Join(dir, "disk.raw")
	if err := writeMBR(disk, mbr, debianDiskSize, debianBootSize, debianRootSize); err != nil {
		return err
	}
	if err := b.write(ctx, dir, disk); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"mke2fs", "-q", "-t", "ext4", "-L", "root", "-E", fmt.Sprintf("offset=%d", bootStart+debianBootSize), "-d", tree, disk, fmt.Sprint(debianRootSize / 1024)},
		{"qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", disk, "disk.qcow2"},
	} {
		if _, err := run(ctx, dir, args[0], args[1:]...); err != nil {
			return err
		}
	}
	return nil
}
