package play_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"widecloud/internal/lab/play"
)

// playwright stands in Playwright's place: it says what its test file has.
const playwright = `
const fs = require('fs')
const spec = process.argv.at(-1).replace('/', '').replace('\\.spec\\.ts$', '')
console.error('page of ' + process.env.PAGE_SITE + ' at ' + process.env.PAGE_URL)
if (!process.env.PAGE_TOKEN.startsWith('wcc_')) process.exit(3)
fs.writeFileSync(process.env.PAGE_SHOTS + '/' + spec + '.png', '')
for (const line of fs.readFileSync('e2e/' + spec + '.spec.ts', 'utf8').split('\n')) console.log(line)
if (spec === 'stays') setInterval(() => {}, 1000)
if (spec === 'broken') process.exit(1)
`

// TestBrowserRun: each check of the page's tests can fail, and fails when it should; the tests themselves are run by
// examples/browser.lab.
func TestBrowserRun(t *testing.T) {
	bin := programs(t)
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode))
	}
	file("scripts/page", "#!/bin/sh\n[ \"$1\" = --deps ]\n", 0o755)
	file("web/node_modules/@playwright/test/cli.js", playwright, 0o644)
	file("web/e2e/good.spec.ts", `{"step":"half"}
{"test":"it is so","spec":"good","status":"passed","seconds":0.5,"error":""}
some other text`, 0o644)
	file("web/e2e/bad.spec.ts", `{"test":"it is so","spec":"bad","status":"passed","seconds":0.5,"error":""}
{"test":"it is not","spec":"bad","status":"timedOut","seconds":0.5,"error":"no button\nanywhere"}
{"test":"it was not run","spec":"bad","status":"skipped","seconds":0,"error":""}`, 0o644)
	file("web/e2e/none.spec.ts", "Running 0 tests", 0o644)
	file("web/e2e/broken.spec.ts", `{"fault":"SyntaxError: line 3"}
{"test":"it is so","spec":"broken","status":"passed","seconds":0.5,"error":""}`, 0o644)
	file("web/e2e/stays.spec.ts", `{"step":"the site is grey"}`, 0o644)
	file("examples/x.lab", "", 0o644)

	s, err := play.Parse("x.lab", `site tokyo hosts 0
browser tokyo good
browser tokyo bad
browser tokyo none
browser tokyo broken
browser tokyo stays &
wait browser tokyo step "the site is grey" within 20s
expect browser tokyo passed within 100ms
browser tokyo good &
wait browser tokyo step "never" within 20s
`)
	must(t, err)
	var b bytes.Buffer
	logs := t.TempDir()
	r, err := play.Run(t.Context(), s, play.Options{Name: scope.Name, Dir: filepath.Join(dir, "examples"), Bin: bin, Out: &b, LogDir: logs})
	t.Logf("%s", b.String())
	if err == nil || !strings.Contains(err.Error(), `x.lab:10:1: no use in waiting: the tests have ended without the step "never"`) {
		t.Errorf("the end: %v", err)
	}
	want := []struct {
		line int
		ok   bool
		text string
	}{
		{2, true, "it is so (0.5 s)"}, {2, true, "1 tests in"},
		{3, true, "it is so"}, {3, false, "it is not: timedOut after 0.5 s: no button\nanywhere"}, {3, false, "it was not run: skipped"}, {3, false, "2 of 3 tests failed"},
		{4, false, "no test has run"},
		{5, true, "it is so"}, {5, false, "SyntaxError: line 3"},
		{8, false, "had not ended within 100ms"},
		{9, true, "it is so"},
		{10, false, "never"},
		{10, true, "no namespace"},
	}
	for i, c := range r.Checks {
		if i >= len(want) || c.Pos.Line != want[i].line || c.OK != want[i].ok || !strings.Contains(c.Detail, want[i].text) {
			t.Errorf("check %d: line %d, %s: passed %t, %s", i, c.Pos.Line, c.Text, c.OK, c.Detail)
		}
	}
	if len(r.Checks) != len(want) {
		t.Errorf("%d checks, want %d", len(r.Checks), len(want))
	}
	if _, err := os.Stat(filepath.Join(logs, "browser", "good.png")); err != nil {
		t.Errorf("a picture: %v", err)
	}
	log, err := os.ReadFile(filepath.Join(logs, "tokyo-ctl.browser.log"))
	if err != nil || !strings.Contains(string(log), "page of tokyo at http://[::1]:7646\n") || !strings.Contains(string(log), "some other text\n") {
		t.Errorf("the log has %q, %v", log, err)
	}

	s, err = play.Parse("x.lab", "site tokyo hosts 0\nbrowser tokyo nowhere\n")
	must(t, err)
	if _, err = play.Run(t.Context(), s, play.Options{Name: scope.Name, Dir: filepath.Join(dir, "examples"), Bin: bin, Out: &b, LogDir: logs}); err == nil || !strings.Contains(err.Error(), "nowhere.spec.ts") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestBrowserFaults: what cannot be is said before anything is built.
func TestBrowserFaults(t *testing.T) {
	const begin = "site tokyo hosts 1\nsite osaka hosts 1\n"
	for _, c := range []struct{ line, want string }{
		{"browser tokyo", "SPEC is missing"},
		{"browser nara vms", `unknown site "nara"`},
		{"browser tokyo ../../x", "is no file of web/e2e"},
		{"browser tokyo vms.spec.ts", "is no file of web/e2e"},
		{"browser tokyo vms & console", `"console" is more than`},
		{"wait browser osaka step \"x\"", "no browser runs at osaka in the background"},
		{"expect browser tokyo passed", "no browser runs at tokyo in the background"},
		{"browser tokyo vms &\nwait browser tokyo step x", "quotation marks"},
	} {
		_, err := play.Parse("x.lab", begin+c.line+"\n")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.line, err, c.want)
		}
	}
}
