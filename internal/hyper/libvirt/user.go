package libvirt

import (
	"encoding/xml"
	"fmt"
	"os"
	"strconv"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// admitQEMU lets QEMU make sockets in the driver's directory: those of an incoming
// migration are its own. As packages install libvirt, QEMU is not root. The
// directory gets its group, which may make files there but not list them, nor
// remove those of others.
func (d *Driver) admitQEMU(l *golibvirt.Libvirt, accel Accel) error {
	doc, err := l.ConnectGetCapabilities()
	if err != nil {
		return err
	}
	group, err := qemuGroup([]byte(doc), virtType(accel))
	if err != nil || group == 0 {
		return err
	}
	if err := os.Chown(d.o.Dir, -1, group); err != nil {
		return fmt.Errorf("let QEMU into %s: %w", d.o.Dir, err)
	}
	if err := os.Chmod(d.o.Dir, 0o731|os.ModeSticky); err != nil {
		return fmt.Errorf("let QEMU into %s: %w", d.o.Dir, err)
	}
	return nil
}

// qemuGroup is the group that QEMU runs as by the capabilities of the host
// (https://libvirt.org/formatcaps.html): 0 if it is root, or libvirt does not say.
func qemuGroup(doc []byte, domainType string) (int, error) {
	var caps struct {
		Models []struct {
			Model  string `xml:"model"`
			Labels []struct {
				Type string `xml:"type,attr"`
				Text string `xml:",chardata"` // +UID:+GID
			} `xml:"baselabel"`
		} `xml:"host>secmodel"`
	}
	if err := xml.Unmarshal(doc, &caps); err != nil {
		return 0, fmt.Errorf("parse capabilities: %w", err)
	}
	for _, m := range caps.Models {
		for _, label := range m.Labels {
			if m.Model != "dac" || label.Type != domainType {
				continue
			}
			_, group, _ := strings.Cut(label.Text, ":")
			gid, err := strconv.Atoi(strings.TrimPrefix(group, "+"))
			if err != nil || gid < 0 {
				return 0, fmt.Errorf("parse capabilities: %q is no label of a user and a group", label.Text)
			}
			return gid, nil
		}
	}
	return 0, nil
}
