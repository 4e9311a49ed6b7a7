package browser

import (
	"regexp"
	"time"

	"widecloud/internal/lab/script"
	"widecloud/internal/lab/topic/site"
)

// Topic is the web page.
var Topic = script.Topic{
	Title: "The web page",
	Intro: "The page of a site in Debian's Chromium, on the site's controller's machine, by Playwright (Node 20 or newer). A SPEC is a file of " +
		"[web/e2e](../web/e2e) without `.spec.ts`. Pictures, and the traces of tests that failed, are in the directory `browser` of the logs.",
	Statements: []script.Entry{
		{
			Form: "browser SITE SPEC… [&]", Part: script.Checks,
			Doc: "each test is a check. With `&` in the background, of which there is one at a site", Parse: parseTests,
		},
		{
			Form: `wait browser SITE step "TEXT" [within TIME]`, Part: script.Happens,
			Doc: "until what runs there in the background has done its `test.step` of that name", Parse: parseStep,
		},
		{
			Form: "expect browser SITE passed [within TIME]", Part: script.Checks,
			Doc: "the tests that run there in the background; each of them is a check, too", Parse: parseEnd,
		},
	},
}

// runTime is how long the tests of one statement may take.
const runTime = 15 * time.Minute

var specRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,40}$`)

// background are the tests that were begun last at each site.
type background map[*site.Site]*Begin

func parseTests(p *script.Parser) any {
	all := script.Shared(p, func() *sources { return &sources{} })
	p.Declare("browser", all)
	t := Tests{pos: p.Pos(), Site: site.Ref(p)}
	for p.More() && !p.Is("&") {
		w := p.Next("SPEC")
		if w.Quoted || !specRE.MatchString(w.Text) {
			p.Fail(w, "%q is no file of web/e2e without .spec.ts", w.Text)
		}
		t.Specs = append(t.Specs, w.Text)
	}
	if len(t.Specs) == 0 {
		p.Next("SPEC")
	}
	all.specs = append(all.specs, t.Specs...)
	if p.Last().Text != "&" {
		return &t
	}
	b := &Begin{Tests: t}
	script.Shared(p, func() background { return background{} })[t.Site] = b
	return b
}

// begun takes a site where tests run in the background.
func begun(p *script.Parser) *Begin {
	w := p.Peek()
	s := site.Ref(p)
	b := script.Shared(p, func() background { return background{} })[s]
	if b == nil {
		p.Fail(w, "no browser runs at %s in the background", s.Name())
	}
	return b
}

func parseStep(p *script.Parser) any {
	s := &Step{Of: begun(p)}
	p.OneOf("step")
	s.Text = p.Quoted()
	s.Within = p.Within(time.Minute)
	return s
}

func parseEnd(p *script.Parser) any {
	e := &End{Of: begun(p)}
	p.OneOf("passed")
	e.Within = p.Within(runTime)
	return e
}
