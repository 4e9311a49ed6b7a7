package server

import (
	"context"
	"fmt"
	"os"
	"path"

	"widecloud/internal/lab/machine"
)

const (
	ganeshaConfig = "/etc/ganesha/lab.conf"
	ganeshaExport = keeps + "/export"
	ganeshaText   = "it is exported"
)

func init() {
	daemons["ganesha"] = &daemon{
		doc:      "NFS 3 and 4 of the directory `" + ganeshaExport + "`, which NFS 4 calls `/export`. After each start it is in its grace for 5 s",
		programs: []string{"ganesha.nfsd", "rpcbind", "nfs-cat", "qemu-img"},
		prepare: func(_ context.Context, s *Server) error {
			if err := os.MkdirAll(s.Node().Path(ganeshaExport), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(s.Node().Path(path.Join(ganeshaExport, "check")), []byte(ganeshaText), 0o644); err != nil {
				return err
			}
			return s.Node().WriteFile(ganeshaConfig, []byte(ganeshaFile))
		},
		processes: func(*Server) []machine.ProcessOptions {
			return []machine.ProcessOptions{
				{Name: "rpcbind", Args: []string{"/bin/sh", "-c", "mkdir -p /run/rpcbind && exec /usr/sbin/rpcbind -f -w"}},
				{Name: "ganesha", Args: []string{
					"/bin/sh", "-c", "mkdir -p /run/ganesha && exec /usr/bin/ganesha.nfsd -F -f " + ganeshaConfig + " -L STDOUT -N NIV_EVENT -p /run/ganesha.pid",
				}},
			}
		},
		check: ganeshaCheck,
	}
}

// The recovery of clients' state is kept with the files.
const ganeshaFile = `NFS_CORE_PARAM { Enable_NLM = false; Enable_RQUOTA = false; Protocols = 3, 4; MNT_Port = 20048; }
NFSv4 { Grace_Period = 5; Lease_Lifetime = 5; RecoveryBackend = fs; RecoveryRoot = ` + keeps + `/recovery; }
EXPORT {
	Export_Id = 1; Path = ` + ganeshaExport + `; Pseudo = /export; Access_Type = RW;
	Squash = No_Root_Squash; SecType = sys; Protocols = 3, 4; FSAL { Name = VFS; }
}
`

// ganeshaCheck reads a file by NFS 3 and by NFS 4.
func ganeshaCheck(ctx context.Context, s *Server) (string, error) {
	for _, url := range []string{
		fmt.Sprintf("nfs://%s%s/check", s.addr4(), ganeshaExport),
		fmt.Sprintf("nfs://%s/export/check?version=4", s.addr6()),
	} {
		got, err := s.client(ctx, "nfs-cat", url)
		if err == nil && got != ganeshaText {
			err = fmt.Errorf("%s is %q, not %q", url, got, ganeshaText)
		}
		if err != nil {
			return "", err
		}
	}
	return "a file was read by NFS 3 and by NFS 4", nil
}
