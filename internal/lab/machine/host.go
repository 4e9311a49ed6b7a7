package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"widecloud/internal/lab/image"
)

// libvirtProcess is the name of a host's libvirtd among its processes.
const libvirtProcess = "libvirtd"

// Host is a node that runs virtual machines: it has a libvirtd, reached by the
// socket in its /run only.
type Host struct{ *Node }

// AddHost makes a node with libvirtd and powers it on.
func (l *Lab) AddHost(o NodeOptions) (*Host, error) {
	cache, err := l.capabilityCache()
	if err != nil {
		return nil, fmt.Errorf("add host %s: %w", o.Name, err)
	}
	share := map[string]string{cache: "/var/cache/libvirt/qemu/capabilities"}
	for from, to := range o.Share {
		share[from] = to
	}
	o.Share = share
	n, err := l.AddNode(o)
	if err != nil {
		return nil, err
	}
	h := &Host{n}
	if err := l.cores.start(startLibvirt, h.startLibvirt); err != nil {
		return nil, fmt.Errorf("add host %s: %w", o.Name, err)
	}
	return h, nil
}

// capabilityCache is where the libvirtds of all labs keep what they learn by
// probing QEMU: seconds of work that would be the same for each host. libvirt
// itself notices when QEMU changes.
func (l *Lab) capabilityCache() (string, error) {
	dir, err := image.CacheDir()
	if err != nil {
		return "", err
	}
	kind := "tcg"
	if l.o.KVM {
		kind = "kvm"
	}
	dir = filepath.Join(dir, "libvirt-"+kind)
	return dir, os.MkdirAll(dir, 0o755)
}

// LibvirtSocket is the path of the host's libvirt socket as seen from outside.
// It is good until the host loses power.
func (h *Host) LibvirtSocket() string { return h.Path("/run/libvirt/libvirt-sock") }

func (h *Host) startLibvirt() error {
	id := h.machineID()
	uuid := id[:8] + "-" + id[8:12] + "-4" + id[13:16] + "-8" + id[17:20] + "-" + id[20:]
	files := map[string]string{
		// Nothing listens on the network: migration streams are the agent's.
		"/etc/libvirt/libvirtd.conf": fmt.Sprintf("host_uuid = %q\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nlog_outputs = \"3:stderr\"\n", uuid),
		// Root and no confinement: the host is a container of ours. stdio_handler
		// avoids virtlogd; cgroups and a mount namespace per QEMU need what the
		// host has not got.
		"/etc/libvirt/qemu.conf": "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nremember_owner = 0\n" +
			"stdio_handler = \"file\"\ncgroup_controllers = [ ]\nnamespaces = [ ]\n",
	}
	for path, text := range files {
		if err := h.WriteFile(path, []byte(text)); err != nil {
			return err
		}
	}
	// libvirt looks its compiled-in user up before it reads qemu.conf.
	for path, entry := range map[string]string{
		"/etc/passwd": "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n",
		"/etc/group":  "libvirt-qemu:x:64055:\n",
	} {
		text, err := os.ReadFile(h.Path(path))
		if err != nil {
			return err
		}
		if !strings.Contains("\n"+string(text), "\nlibvirt-qemu:") {
			if err := h.WriteFile(path, append(text, entry...)); err != nil {
				return err
			}
		}
	}
	_, err := h.Start(ProcessOptions{
		Name: libvirtProcess, Args: []string{"/usr/sbin/libvirtd"}, Boot: true,
		Ready: func(ctx context.Context) error {
			if _, err := os.Stat(h.LibvirtSocket()); err != nil {
				return err
			}
			_, err := h.Virsh(ctx, "version")
			return err
		},
	})
	return err
}

// Virsh runs libvirt's own client inside the host and returns its output.
func (h *Host) Virsh(ctx context.Context, args ...string) (string, error) {
	out, err := h.Command(ctx, "virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...).Output()
	return string(out), err
}

// WriteFile writes a file of the running node, making its directories.
func (n *Node) WriteFile(path string, data []byte) error {
	if !n.On() {
		return fmt.Errorf("write %s on %s: %w", path, n.name, ErrOff)
	}
	outside := n.Path(path)
	if err := os.MkdirAll(filepath.Dir(outside), 0o755); err != nil {
		return fmt.Errorf("write %s on %s: %w", path, n.name, err)
	}
	if err := os.WriteFile(outside, data, 0o644); err != nil {
		return fmt.Errorf("write %s on %s: %w", path, n.name, err)
	}
	return nil
}
