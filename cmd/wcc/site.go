package main

import (
	"strconv"

	"widecloud/api"
)

var _ = present[siteGroup](api.KindSite,
	col("REACHED", func(o *api.Site) string { return yes(o.Status.Reached || o.Status.Self) }),
	col("SELF", func(o *api.Site) string { return yes(o.Status.Self) }),
	col("RTT", func(o *api.Site) string { return seconds(o.Status.RTT) }),
	col("HOSTS", func(o *api.Site) string { return strconv.Itoa(o.Status.Hosts) }),
	col("FREE", func(o *api.Site) string { return amount(o.Status.Free) }),
	wide("ENDPOINT", func(o *api.Site) string { return o.Spec.Endpoint }),
	wide("SINCE", func(o *api.Site) string { return stamp(o.Status.Since) }),
	wide("MESSAGE", func(o *api.Site) string { return o.Status.Message }),
)

type siteGroup struct {
	List    listCmd        `cmd:"" help:"List this site and its peers."`
	Show    showCmd        `cmd:"" help:"Show a site."`
	Recover siteRecoverCmd `cmd:"" help:"Let an admin in again while the controller is stopped."`
}
