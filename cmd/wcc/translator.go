package main

import (
	"strconv"

	"widecloud/api"
)

var _ = present[translatorGroup](api.KindTranslator,
	col("HOST", func(o *api.Translator) string { return o.Spec.Host }),
	col("RUNNING", func(o *api.Translator) string { return yes(o.Status.Running) }),
	col("MAPPINGS", func(o *api.Translator) string { return strconv.Itoa(o.Status.Mappings) }),
	wide("MESSAGE", func(o *api.Translator) string { return o.Status.Message }),
)

type translatorGroup struct {
	List listCmd `cmd:"" help:"List translators."`
	Show showCmd `cmd:"" help:"Show a translator."`

	Traffic translatorTrafficCmd `cmd:"" help:"Show what a translator has carried."`
}
