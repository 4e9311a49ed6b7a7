package netio

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Nft runs the nft program at path inside the namespace, with script as its standard input, and returns what it prints.
// A script read with `-f -` is one transaction: all of it holds, or, on an error, none.
func (n *NS) Nft(ctx context.Context, path, script string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script), &stdout, &stderr
	err := n.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("run nft %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// NftGeneration is the number of the namespace's rule set of nftables. Each transaction makes it one more, whoever commits it; what
// rules themselves add to sets does not change it.
func (n *NS) NftGeneration() (uint32, error) {
	var replies [][]byte
	err := n.Do(func() (err error) {
		r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
		r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
		replies, err = r.Execute(unix.NETLINK_NETFILTER, 0)
		return err
	})
	for _, b := range replies {
		if len(b) < nl.SizeofNfgenmsg {
			break
		}
		attrs, parseErr := nl.ParseRouteAttr(b[nl.SizeofNfgenmsg:])
		err = errors.Join(err, parseErr)
		for _, a := range attrs {
			if a.Attr.Type == unix.NFTA_GEN_ID && len(a.Value) >= 4 {
				return binary.BigEndian.Uint32(a.Value), nil
			}
		}
	}
	if err == nil {
		err = errors.New("the kernel did not say")
	}
	return 0, fmt.Errorf("read the generation of the rule set: %w", err)
}
