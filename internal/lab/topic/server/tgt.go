package server

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"widecloud/internal/lab/machine"
)

const (
	tgtConfig = "/etc/tgt/lab.conf"
	tgtTarget = "iqn.2026-11.example.lab:disk"
	tgtLUN    = keeps + "/lun1.raw"
	tgtSize   = 256 << 20
)

func init() {
	daemons["tgt"] = &daemon{
		doc:       "an iSCSI target, `" + tgtTarget + "`, whose LUN 1 is a disk of 256 MiB",
		programs:  []string{"tgtd", "tgt-admin", "qemu-img"},
		prepare:   tgtPrepare,
		processes: tgtProcesses,
		configure: func(ctx context.Context, s *Server) error {
			_, err := s.run(ctx, "tgt-admin", "--update", "ALL", "--conf", tgtConfig)
			return err
		},
		check: tgtCheck,
	}
}

func tgtPrepare(_ context.Context, s *Server) error {
	if err := os.WriteFile(s.Node().Path(tgtLUN), nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(s.Node().Path(tgtLUN), tgtSize); err != nil {
		return err
	}
	return s.Node().WriteFile(tgtConfig, []byte("default-driver iscsi\n<target "+tgtTarget+">\n\tbacking-store "+tgtLUN+"\n</target>\n"))
}

func tgtProcesses(*Server) []machine.ProcessOptions {
	// Its control socket is where the package's unit has it.
	return []machine.ProcessOptions{{Name: "tgtd", Args: []string{
		"/bin/sh", "-c", "mkdir -p /run/tgtd && exec /usr/sbin/tgtd -f --iscsi portal=0.0.0.0:3260,portal=[::]:3260",
	}}}
}

// tgtCheck logs in and asks for the disk's size, as a hypervisor's QEMU does.
func tgtCheck(ctx context.Context, s *Server) (string, error) {
	out, err := s.client(ctx, "qemu-img", "info", "--output=json", fmt.Sprintf(
		`json:{"driver":"raw","file":{"driver":"iscsi","transport":"tcp","portal":"[%s]:3260","target":%q,"lun":1}}`, s.addr6(), tgtTarget))
	if err != nil {
		return "", err
	}
	var info struct {
		Size int64 `json:"virtual-size"`
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		return "", fmt.Errorf("qemu-img says %q: %w", out, err)
	}
	if info.Size != tgtSize {
		return "", fmt.Errorf("LUN 1 has %d bytes, not %d", info.Size, tgtSize)
	}
	return "logged in; LUN 1 has 256 MiB", nil
}
