package main

import (
	"fmt"
	"io"
	"strings"

	"widecloud/api"
)

var _ = present[peerGroup](api.KindPeer,
	col("REACHED", func(o *api.Peer) string { return yes(o.Status.Reached) }),
	col("RTT", func(o *api.Peer) string { return seconds(o.Status.RTT) }),
	col("ENDPOINT", func(o *api.Peer) string { return o.Spec.Endpoint }),
	wide("FINGERPRINT", func(o *api.Peer) string { return o.Spec.Fingerprint }),
	wide("SINCE", func(o *api.Peer) string { return stamp(o.Status.Since) }),
	wide("MESSAGE", func(o *api.Peer) string { return o.Status.Message }),
)

type peerGroup struct {
	List   listCmd       `cmd:"" help:"List peers."`
	Show   showCmd       `cmd:"" help:"Show a peer."`
	Invite peerInviteCmd `cmd:"" help:"Make a one-time invitation for another site's admin."`
	Add    peerAddCmd    `cmd:"" help:"Accept another site's invitation."`
	Remove deleteCmd     `cmd:"" help:"End the peering with sites."`
}

type peerInviteCmd struct{}

func (peerInviteCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	invitation, err := client.PeerInvite(a)
	if err != nil {
		return err
	}
	return a.out.printf("%s\n", invitation)
}

type peerAddCmd struct {
	Invitation string `arg:"" help:"What wcc peer invite printed at the other site; @FILE, or - for standard input."`
	format
}

func (c *peerAddCmd) Run(a *app) error {
	text, err := textOrFile("INVITATION", c.Invitation)
	if err != nil {
		return err
	}
	if text == "-" {
		b, err := io.ReadAll(io.LimitReader(a.in, 1<<20))
		if err != nil {
			return fmt.Errorf("read the invitation: %w", err)
		}
		text = string(b)
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	peer, err := client.PeerAdd(a, strings.TrimSpace(text))
	if err != nil {
		return err
	}
	return c.done(a, peer, "added")
}
