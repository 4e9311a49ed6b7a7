package koshien

import (
	"time"

	"widecloud/internal/lab/script"
)

// Topic is the Koshien application.
var Topic = script.Topic{
	Title: "Live pictures",
	Intro: "Stills of a test picture for viewers, out of VMs with `image koshien` ([koshien.md](koshien.md)). A viewer asks as the page does, and " +
		"reads the number of each picture. A still is late when the next one was taken before it came.",
	Statements: []script.Entry{
		{
			Form: "sentryd NAME from inet4|inet6 to VM… [rate N]", Part: script.Happens,
			Doc: "`sentryd` there sends N stills a second (1) of 320 x 180 pixels to the VMs' `sentryc`, by the keys that their user-data has in " +
				"`/etc/sentryc/sentryd.key`",
			Parse: parseSentryd,
		},
		{
			Form: "viewers NAME N CLIENT -> VM…", Part: script.Happens,
			Doc: "N viewers of the channel `live`. Each begins at one of the VMs, in turns, and may go to the others", Parse: parseViewers,
		},
		{
			Form: "measure viewers VIEWERS…", Part: script.Happens,
			Doc: "what they count begins anew, and the translators' shares. VIEWERS is a name or `all`", Parse: parseMeasure,
		},
		{
			Form: "scrape TRANSLATOR every TIME", Part: script.Fails,
			Doc: "a process on the translator's machine asks its `/metrics` again and again", Parse: parseScrape,
		},
		{
			Form: "stop scrape TRANSLATOR", Part: script.Fails, Doc: "a check: it was answered, each time",
			Parse: func(p *script.Parser) any { return &StopScrape{parseTranslator(p)} },
		},
		{
			Form: "expect viewers VIEWERS freeze under TIME", Part: script.Checks,
			Doc: "no viewer was without a new still for so long", Parse: func(p *script.Parser) any {
				g := parseGroup(p)
				p.OneOf("freeze")
				p.OneOf("under")
				return &Freeze{g, p.Duration(time.Hour)}
			},
		},
		{
			Form: "expect viewers VIEWERS missed N", Part: script.Checks,
			Doc: "no viewer has missed more than N stills: lost ones, and late ones", Parse: func(p *script.Parser) any {
				g := parseGroup(p)
				p.OneOf("missed")
				return &Missed{g, p.Number("number of stills", 0, 1e6)}
			},
		},
		{
			Form: "figure FIGURE viewers VIEWERS lost|late|freeze|delay|bytes", Part: script.Checks,
			Doc:   "of one viewer: stills lost or late, at most; the longest freeze; how old a still is when it has come, p99; bytes a second, mean",
			Parse: parseFigure,
		},
		{
			Form: "figure FIGURE share TRANSLATOR", Part: script.Checks, Doc: "its part of all packets translated since `measure viewers`",
			Parse: parseShare,
		},
		{
			Form: "figure FIGURE sentryd NAME lost|missing VM", Part: script.Checks,
			Doc: "by the report of the VM's `sentryc`: stills lost on the way there; datagrams that did not come", Parse: parseReport,
		},
	},
}
