package main

import "widecloud/api"

var _ = present[eventGroup](api.KindEvent,
	col("TIME", func(o *api.Event) string { return stamp(o.Time) }),
	col("TYPE", func(o *api.Event) string { return o.Type }),
	col("OBJECT", func(o *api.Event) string { return o.Object }),
	col("ACTOR", func(o *api.Event) string { return o.Actor }),
	col("MESSAGE", func(o *api.Event) string { return o.Message }),
)

type eventGroup struct {
	List listCmd `cmd:"" help:"List what happened; -w goes on."`
	Show showCmd `cmd:"" help:"Show an event."`
}
