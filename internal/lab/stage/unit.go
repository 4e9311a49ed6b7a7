package stage

import (
	"context"
	"fmt"
	"path"

	"widecloud/internal/lab/machine"
	"widecloud/packaging"
)

// StartUnit does what the README says of a machine with systemd: programs to
// /usr/local/bin, our unit to /etc/systemd/system, enabled and started. The service is
// known as a process of that name.
func StartUnit(ctx context.Context, n *machine.Node, process, unit string, programs ...string) error {
	text, err := packaging.Units.ReadFile(path.Join("systemd", unit))
	if err != nil {
		return err
	}
	if err := n.WriteFile("/etc/systemd/system/"+unit, text); err != nil {
		return err
	}
	if out, err := n.Command(ctx, "install", append(programs, "/usr/local/bin/")...).CombinedOutput(); err != nil {
		return fmt.Errorf("install programs on %s: %w: %s", n.Name(), err, out)
	}
	return n.StartService(ctx, process, unit)
}
