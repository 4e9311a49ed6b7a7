package main

import (
	"fmt"
	"html"
	"strings"
)

// Colours of the paths: distinguishable also to those who see few colours
// (Okabe and Ito).
var colours = map[string]string{
	"ipv6": "#999999", "ipv4": "#bbbbbb", "tun": "#e69f00", "fast": "#009e73", "fast66": "#56b4e9", "stack": "#8fd3bd", "stack66": "#b5dcf3",
	"full": "#0072b2", "full66": "#cc79a7", "tayga": "#d55e00",
}

// picture draws the ratios: a group of bars for each load, quartiles as
// whiskers. Bars beyond the scale are cut and say their value.
func (r *report) picture() string {
	const (
		top, bottom, left = 56, 64, 46
		height            = 300.0 // of the scale
		bar, gap          = 22, 20
		limit             = 3.0 // what the scale reaches
	)
	type group struct {
		load  string
		paths []string
	}
	var groups []group
	width := left + gap
	for _, load := range ratioLoads {
		g := group{load: load}
		for _, path := range r.paths {
			if path != base && r.ratio(path, load).N > 0 {
				g.paths = append(g.paths, path)
			}
		}
		if len(g.paths) > 0 {
			groups = append(groups, g)
			width += max(len(g.paths)*bar, 70) + gap
		}
	}
	width = max(width, 560)
	y := func(v float64) float64 { return top + height*(1-min(max(v, 0), limit)/limit) }
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`, width, int(top+height+bottom))
	p(`<rect width="100%%" height="100%%" fill="white"/>`)
	p(`<text x="%d" y="20" font-size="15">CPU cost of the whole path, × plain IPv6 forwarding</text>`, left)
	x := left
	for _, path := range r.paths {
		if path == base {
			continue
		}
		p(`<rect x="%d" y="32" width="12" height="12" fill="%s"/><text x="%d" y="42">%s</text>`, x, colours[path], x+16, html.EscapeString(path))
		x += 74
	}
	for v := 0.0; v <= limit; v += .5 {
		colour := "#e5e5e5"
		if v == 1 {
			colour = "#555555"
		}
		p(`<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="%s"/><text x="%d" y="%.1f" text-anchor="end">%.1f</text>`, left, y(v), width, y(v), colour, left-6, y(v)+4, v)
	}
	x = left + gap
	for _, g := range groups {
		wide := max(len(g.paths)*bar, 70)
		at := x + (wide-len(g.paths)*bar)/2
		for _, path := range g.paths {
			s := r.ratio(path, g.load)
			p(`<rect x="%d" y="%.1f" width="%d" height="%.1f" fill="%s"><title>%s.%s %s</title></rect>`, at+1, y(s.Median), bar-2, y(0)-y(s.Median), colours[path],
				html.EscapeString(path), html.EscapeString(g.load), spreadText(s))
			middle := float64(at) + bar/2
			label := y(s.Median) - 4
			if s.High <= limit {
				p(`<path d="M%.1f %.1fV%.1fM%.1f %.1fh8M%.1f %.1fh8" stroke="black" fill="none"/>`, middle, y(s.Low), y(s.High), middle-4, y(s.Low), middle-4, y(s.High))
				label = y(s.High) - 4
			}
			if s.Median > limit {
				// Cut: a white stroke through the bar.
				p(`<path d="M%d %.1fl%d -6" stroke="white" stroke-width="4"/>`, at, y(limit)+18, bar)
			}
			p(`<text x="%.1f" y="%.1f" text-anchor="middle" font-size="9">%s</text>`, middle, label, short(s.Median))
			at += bar
		}
		p(`<text x="%d" y="%.1f" text-anchor="middle">%s</text>`, x+wide/2, y(0)+18, html.EscapeString(g.load))
		x += wide + gap
	}
	p(`<text x="%d" y="%.1f" font-size="10" fill="#555555">Medians; whiskers: quartiles. Bars that leave the scale are cut.</text>`, left, y(0)+44)
	p(`</svg>`)
	return b.String()
}
