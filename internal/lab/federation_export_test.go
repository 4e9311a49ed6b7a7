package lab

import (
	"context"

	"widecloud/api"
)

// NodeImages is where a controller's machine sees FederationOptions.Images.
const NodeImages = nodeImages

// NodeBin is where machines see FederationOptions.Bin.
const NodeBin = nodeBin

// Client is an admin of a site.
func (f *Federation) Client(site string) *api.Client { return f.sites[site].client }

// Token is the admin's token.
func (f *Federation) Token(site string) string { return f.sites[site].token }

// Controller is the machine of a site's controller.
func (f *Federation) Controller(site string) *Node { return f.sites[site].ctl }

// Hypervisor is a host of a site.
func (f *Federation) Hypervisor(site, host string) *Host { return f.sites[site].hosts[host] }

// From is from.
func (f *Federation) From(place string) *Node { return f.from(place) }

// Find is find.
func (f *Federation) Find(ctx context.Context, uid string) (active map[string]string, defined []string, err error) {
	c, err := f.find(ctx, uid)
	return c.active, c.defined, err
}

// RestartWith starts a process again, with this environment beside the node's own.
func (n *Node) RestartWith(name string, env ...string) (*Process, error) {
	p := n.Process(name)
	if err := p.stop(); err != nil {
		return nil, err
	}
	o := p.o
	o.Env = env
	return n.Start(o)
}

// Until is until.
var Until = until
