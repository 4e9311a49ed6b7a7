package network

import (
	"crypto/sha256"
	"fmt"
	"regexp"
)

// BridgeName is the device that VMs of a network plug into. It follows from the UID alone, so a migrating VM finds
// the same name at its target, and 40 bits of a digest fit the kernel's 15 characters.
func BridgeName(networkUID string) string { return "br-" + short(networkUID) }

// VXLANName is a network's VXLAN device; on a gateway the device that routes to the network.
func VXLANName(networkUID string) string { return "vx-" + short(networkUID) }

// ours matches the names of both, which is how devices of networks that are no longer wanted are found.
var ours = regexp.MustCompile(`^(br|vx)-([0-9a-f]{10})$`)

func short(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return fmt.Sprintf("%x", sum[:5])
}
