package machine

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// layout is where machines are in a picture: rows by the number of links from the
// first machine, each machine below the one by which it was reached.
type layout struct {
	rows   [][]string
	parent map[string]string
	extra  []Cable // links that are none to a parent
}

// layout puts what has the most links first: a lab's Internet, or its only router.
func (p *Picture) layout() layout {
	near := map[string][]string{}
	for _, c := range p.Cables {
		near[c.A], near[c.B] = append(near[c.A], c.B), append(near[c.B], c.A)
	}
	left := map[string]bool{}
	var names []string
	for _, m := range p.Machines {
		left[m.Name] = true
		names = append(names, m.Name)
		slices.Sort(near[m.Name])
	}
	// The Internet's router first; then whatever is not joined to it.
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	l := layout{parent: map[string]string{}}
	for _, first := range names {
		row := []string{first}
		for depth := 0; left[first] || depth > 0 && len(row) > 0; depth++ {
			var next []string
			for _, m := range row {
				delete(left, m)
			}
			for _, m := range row {
				for _, n := range near[m] {
					if left[n] {
						delete(left, n)
						l.parent[n] = m
						next = append(next, n)
					}
				}
			}
			for len(l.rows) <= depth {
				l.rows = append(l.rows, nil)
			}
			l.rows[depth] = append(l.rows[depth], row...)
			row = next
		}
	}
	for _, c := range p.Cables {
		if l.parent[c.A] != c.B && l.parent[c.B] != c.A {
			l.extra = append(l.extra, c)
		}
	}
	return l
}

func rank(name string) int {
	if name == "inet" {
		return 0
	}
	return 1
}

// Text is the lab as a tree of its links; those that close a circle follow it.
func (p *Picture) Text() string {
	l := p.layout()
	var b strings.Builder
	var show func(name, first, rest string)
	show = func(name, first, rest string) {
		state := ""
		if m, err := p.Machine(name); err == nil && m.PID == 0 {
			state = " (off)"
		}
		fmt.Fprintf(&b, "%s%s%s\n", first, name, state)
		var children []string
		for _, m := range p.Machines {
			if l.parent[m.Name] == name {
				children = append(children, m.Name)
			}
		}
		for i, c := range children {
			if i == len(children)-1 {
				show(c, rest+"└─ ", rest+"   ")
			} else {
				show(c, rest+"├─ ", rest+"│  ")
			}
		}
	}
	if len(l.rows) > 0 {
		for _, first := range l.rows[0] {
			show(first, "", "")
		}
	}
	for _, c := range l.extra {
		kind := "──"
		if c.WAN {
			kind = "≈≈"
		}
		fmt.Fprintf(&b, "%s %s %s\n", c.A, kind, c.B)
	}
	return b.String()
}

// Sizes of the picture, in pixels.
const (
	boxWidth, boxHeight = 110, 28
	gapX, gapY          = 16, 70
)

// SVG is the lab as a picture: machines in rows, links between them, wide-area links
// dashed, machines without power grey.
func (p *Picture) SVG() string {
	l := p.layout()
	widest := 1
	for _, r := range l.rows {
		widest = max(widest, len(r))
	}
	width, height := widest*(boxWidth+gapX)+gapX, len(l.rows)*(boxHeight+gapY)+gapX
	type point struct{ x, y int }
	at := map[string]point{}
	for y, r := range l.rows {
		for x, m := range r {
			at[m] = point{width * (2*x + 1) / (2 * len(r)), gapX + y*(boxHeight+gapY) + boxHeight/2}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	for _, c := range p.Cables {
		from, to, dash := at[c.A], at[c.B], ""
		if c.WAN {
			dash = ` stroke-dasharray="6 4"`
		}
		fmt.Fprintf(&b, `<path d="M%d %d Q%d %d %d %d" fill="none" stroke="#557"%s><title>%s</title></path>`+"\n", from.x, from.y,
			(from.x+to.x)/2, (from.y+to.y)/2+bow(from.y == to.y), to.x, to.y, dash, html.EscapeString(c.A+"/"+c.ADevice+" — "+c.B+"/"+c.BDevice))
	}
	for _, m := range p.Machines {
		fill := "#eef4ff"
		if m.PID == 0 {
			fill = "#ccc"
		}
		q := at[m.Name]
		fmt.Fprintf(&b, `<g><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" rx="4" fill="%s" stroke="#335"/>`+
			`<text x="%d" y="%d" text-anchor="middle">%s</text></g>`+"\n", html.EscapeString(strings.Join(m.Processes, " ")),
			q.x-boxWidth/2, q.y-boxHeight/2, boxWidth, boxHeight, fill, q.x, q.y+4, html.EscapeString(m.Name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// bow bends a link between two machines of a row, so that it does not hide behind
// those between them.
func bow(same bool) int {
	if same {
		return gapY
	}
	return 0
}
