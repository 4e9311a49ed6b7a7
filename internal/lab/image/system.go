package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// hostPackages are what the README names for a hypervisor, and what a minimal
// Debian with systemd needs.
var hostPackages = []string{
	"systemd-sysv", "dbus", "udev", "iproute2", "procps", "kmod",
	"libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-utils", "dnsmasq-base", "nftables",
}

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

// HostSystem returns the directory of a Debian for NodeOptions.System. It takes
// some minutes to make, and is kept in the cache. Nodes do not write to it.
func HostSystem(ctx context.Context) (string, error) {
	key := Key(append([]string{hostBuilder, debianSuite, hostSetup}, hostPackages...)...)
	dir, err := Cached(ctx, "systems", key, func(ctx context.Context, dir string) error {
		setup := filepath.Join(dir, "setup")
		if err := os.WriteFile(setup, []byte("#!/bin/sh\n"+hostSetup), 0o755); err != nil {
			return err
		}
		// In a mount namespace of its own: what mmdebstrap mounts goes with it, also when it is killed.
		_, err := run(ctx, dir, "unshare", "--mount", "--propagation", "private", "--", "mmdebstrap", "--mode=root", "--variant=minbase",
			"--include="+strings.Join(hostPackages, ","), "--customize-hook="+setup, debianSuite, filepath.Join(dir, "root"))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("make a host's system: %w", err)
	}
	return filepath.Join(dir, "root"), nil
}
