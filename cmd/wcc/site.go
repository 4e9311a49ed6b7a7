package main

import (
	"fmt"
	"io"
	"strings"

	"widecloud/api"
)

type siteGroup struct {
	List    listCmd[api.Site, *api.Site] `cmd:"" help:"List this site and its peers."`
	Show    showCmd[api.Site, *api.Site] `cmd:"" help:"Show a site."`
	Recover siteRecoverCmd               `cmd:"" help:"Let an admin in again while the controller is stopped."`
}

type hostGroup struct {
	List      listCmd[api.Host, *api.Host]   `cmd:"" help:"List hosts."`
	Show      showCmd[api.Host, *api.Host]   `cmd:"" help:"Show a host."`
	JoinToken joinTokenCmd                   `cmd:"" help:"Make a one-time token with which the agent of a new host enrols."`
	Roles     hostRolesCmd                   `cmd:"" help:"Set what a host is for; its agent's configuration must have the roles, too."`
	Cordon    cordonCmd                      `cmd:"" help:"Put no further VM on hosts."`
	Uncordon  uncordonCmd                    `cmd:"" help:"Put VMs on hosts again."`
	Delete    deleteCmd[api.Host, *api.Host] `cmd:"" help:"Forget hosts; their agents can no longer connect."`
}

type joinTokenCmd struct {
	Name string         `arg:"" help:"The host's name."`
	Role []api.HostRole `help:"Its roles: hypervisor, gateway." enum:"hypervisor,gateway" default:"hypervisor"`
}

func (c *joinTokenCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	token, err := client.JoinToken(a, c.Name, c.Role)
	if err != nil {
		return err
	}
	return a.out.printf("%s\n", token)
}

type hostRolesCmd struct {
	Name  string         `arg:"" help:"The host's name." complete:"self"`
	Roles []api.HostRole `arg:"" help:"Its roles: hypervisor, gateway." enum:"hypervisor,gateway"`
	format
}

func (c *hostRolesCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	h, err := api.Patch[api.Host](a, client, c.Name, specOf("roles", c.Roles), 0)
	if err != nil {
		return err
	}
	return c.done(a, h, "is "+list(h.Spec.Roles))
}

type cordonCmd struct {
	Names []string `arg:"" name:"name" help:"Their names." complete:"self"`
}

func (c *cordonCmd) Run(a *app) error { return cordon(a, c.Names, true) }

type uncordonCmd struct {
	Names []string `arg:"" name:"name" help:"Their names." complete:"self"`
}

func (c *uncordonCmd) Run(a *app) error { return cordon(a, c.Names, false) }

func cordon(a *app, names []string, cordoned bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	what := "takes VMs again"
	if cordoned {
		what = "takes no new VM"
	}
	for _, name := range names {
		if _, err := api.Patch[api.Host](a, client, name, specOf("cordoned", cordoned), 0); err != nil {
			return fmt.Errorf("host %s: %w", name, err)
		}
		if err := a.out.printf("host %s %s\n", name, what); err != nil {
			return err
		}
	}
	return nil
}

type ownerGroup struct {
	List   listCmd[api.Owner, *api.Owner]   `cmd:"" help:"List organisations."`
	Show   showCmd[api.Owner, *api.Owner]   `cmd:"" help:"Show an organisation."`
	Create ownerCreateCmd                   `cmd:"" help:"Make an organisation."`
	Quota  ownerQuotaCmd                    `cmd:"" help:"Change the limits that are named; without any: no limit."`
	Delete deleteCmd[api.Owner, *api.Owner] `cmd:"" help:"Delete organisations."`
}

type ownerCreateCmd struct {
	Name  string `arg:"" help:"Its name."`
	Title string `help:"Its name in full."`
	labelled
	format
}

func (c *ownerCreateCmd) Run(a *app) error {
	return create(a, c.format, c.labelled, &api.Owner{Meta: api.Meta{Name: c.Name}, Spec: api.OwnerSpec{Title: c.Title}})
}

type ownerQuotaCmd struct {
	Name string `arg:"" help:"Its name." complete:"self"`
	limits
	format
}

func (c *ownerQuotaCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	o, err := api.Edit(a, client, c.Name, func(o *api.Owner) error {
		var q api.Quota
		if o.Spec.Quota != nil {
			q = *o.Spec.Quota
		}
		if err := c.change(&q); err != nil {
			return err
		}
		if o.Spec.Quota = &q; c.limits == (limits{}) || q == (api.Quota{}) {
			o.Spec.Quota = nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	if o.Spec.Quota == nil {
		return c.done(a, o, "has no limit")
	}
	return c.done(a, o, "may use "+quota(o.Spec.Quota))
}

type userGroup struct {
	List   listCmd[api.User, *api.User]   `cmd:"" help:"List users."`
	Show   showCmd[api.User, *api.User]   `cmd:"" help:"Show a user."`
	Create userCreateCmd                  `cmd:"" help:"Make a user; wcc user token gives it a token."`
	Token  userTokenGroup                 `cmd:"" help:"Make, list and revoke tokens."`
	Delete deleteCmd[api.User, *api.User] `cmd:"" help:"Delete users and their tokens."`
}

type userCreateCmd struct {
	Name  string `arg:"" help:"Its name."`
	Owner string `help:"Organisation that it belongs to." complete:"owners"`
	Admin bool   `help:"It may do everything at this site."`
	labelled
	format
}

func (c *userCreateCmd) Run(a *app) error {
	return create(a, c.format, c.labelled, &api.User{Meta: api.Meta{Name: c.Name, Owner: c.Owner}, Spec: api.UserSpec{Admin: c.Admin}})
}

type peerGroup struct {
	List   listCmd[api.Peer, *api.Peer]   `cmd:"" help:"List peers."`
	Show   showCmd[api.Peer, *api.Peer]   `cmd:"" help:"Show a peer."`
	Invite peerInviteCmd                  `cmd:"" help:"Make a one-time invitation for another site's admin."`
	Add    peerAddCmd                     `cmd:"" help:"Accept another site's invitation."`
	Remove deleteCmd[api.Peer, *api.Peer] `cmd:"" help:"End the peering with sites."`
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

// create makes an object and says so.
func create[T any, P object[T]](a *app, f format, l labelled, o *T) error {
	var err error
	if P(o).Metadata().Labels, err = l.labels(); err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	n, err := api.Create[T, P](a, client, o)
	if err != nil {
		return err
	}
	return f.done(a, P(n), "created")
}
