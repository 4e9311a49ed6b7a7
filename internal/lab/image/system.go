package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Role is what a machine with a Debian of its own does.
type Role string

// The roles of the README, "On real hosts".
const (
	Hypervisor Role = "hypervisor"
	Gateway    Role = "gateway"
	Controller Role = "controller"
)

// rolePackages are what the README names for each role.
var rolePackages = map[Role][]string{
	Hypervisor: {"libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-utils", "dnsmasq-base", "nftables"},
	Gateway:    {"nftables", "frr"},
	Controller: {"qemu-utils"},
}

// systemPackages are what a minimal Debian with systemd needs.
var systemPackages = []string{"systemd-sysv", "dbus", "udev", "iproute2", "procps", "kmod"}

// hostSetup runs in the new system's root directory ($1). What would touch this
// machine's kernel or wait for devices that a container has not got is left out.
const hostSetup = `set -eu
cd "$1"
: >etc/machine-id
rm -f etc/hostname
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service systemd-udevd.service \
	systemd-udev-trigger.service systemd-networkd-wait-online.service systemd-timesyncd.service libvirt-guests.service; do
	ln -sf /dev/null "etc/systemd/system/$unit"
done
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/* usr/share/doc/* usr/share/man/* usr/share/locale/*
rm -f etc/libvirt/qemu/networks/autostart/*
`

const hostBuilder = "1" // counts changes of this file that change the system

// System returns the directory of a Debian for NodeOptions.System. It takes up to
// some minutes to make, and is kept in the cache. Nodes do not write to it.
func System(ctx context.Context, role Role) (string, error) {
	packages := slices.Concat(systemPackages, rolePackages[role])
	key := Key(append([]string{hostBuilder, debianSuite, hostSetup}, packages...)...)
	dir, err := Cached(ctx, "systems", key, func(ctx context.Context, dir string) error {
		setup := filepath.Join(dir, "setup")
		if err := os.WriteFile(setup, []byte("#!/bin/sh\n"+hostSetup), 0o755); err != nil {
			return err
		}
		return mmdebstrap(ctx, dir, packages, setup, "root")
	})
	if err != nil {
		return "", fmt.Errorf("make a %s's system: %w", role, err)
	}
	return filepath.Join(dir, "root"), nil
}

// mmdebstrap makes a Debian with packages in a directory of dir, and runs the program
// setup on it. In namespaces of its own: what it starts and mounts goes with it, also
// when this program is killed.
func mmdebstrap(ctx context.Context, dir string, packages []string, setup, to string) error {
	_, err := run(ctx, dir, "unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--fork", "--kill-child", "--", "mmdebstrap", "--mode=root",
		"--variant=minbase", "--include="+strings.Join(packages, ","), "--customize-hook="+setup, debianSuite, filepath.Join(dir, to))
	return err
}
