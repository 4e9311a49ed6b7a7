package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Sysctl sets a kernel parameter inside the namespace. The key is a path below
// /proc/sys with slashes or, where no part of it contains a dot, with dots:
// "net/ipv6/conf/eth0.7/accept_ra", "net.ipv6.conf.all.forwarding".
func (n *NS) Sysctl(key, value string) error {
	path, err := sysctlPath(key)
	if err != nil {
		return err
	}
	return n.Do(func() error {
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return fmt.Errorf("set sysctl: %w", err)
		}
		return nil
	})
}

// GetSysctl reads a kernel parameter inside the namespace, without the newline.
func (n *NS) GetSysctl(key string) (string, error) {
	path, err := sysctlPath(key)
	if err != nil {
		return "", err
	}
	var value string
	err = n.Do(func() error {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read sysctl: %w", err)
		}
		value = strings.TrimSpace(string(b))
		return nil
	})
	return value, err
}

// SetForwarding makes the namespace a router for both families, or not.
func (n *NS) SetForwarding(on bool) error {
	v := "0"
	if on {
		v = "1"
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := n.Sysctl(key, v); err != nil {
			return err
		}
	}
	return nil
}

// bridgesBypassNetfilter keeps bridged packets away from the IP hooks of
// netfilter. Kernels without br_netfilter lack the keys, and need nothing.
func (n *NS) bridgesBypassNetfilter() error {
	for _, key := range []string{"iptables", "ip6tables", "arptables"} {
		err := n.Sysctl("net/bridge/bridge-nf-call-"+key, "0")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func sysctlPath(key string) (string, error) {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	if key == "" || filepath.Clean("/"+key) != "/"+key {
		return "", fmt.Errorf("bad sysctl key %q", key)
	}
	return "/proc/sys/" + key, nil
}
