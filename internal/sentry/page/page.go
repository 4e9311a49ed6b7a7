package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"widecloud/internal/sentry/httpd"
	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

//go:embed koshien.html koshien.css koshien.js
var files embed.FS

// Options says what a page shows.
type Options struct {
	Reel    *reel.Reel
	Title   map[string]string // by language, "en" and "ja"; none: a default
	Servers []httpd.Place     // an empty URL is the server that the page is from
	Now     func() time.Time
}

// Page serves the page and what belongs to it.
type Page struct {
	o       Options
	html    *template.Template
	assets  map[string]asset
	policy  string
	servers string
}

// asset is a file of the page, as it is and with gzip.
type asset struct {
	kind, sum    string
	plain, small []byte
}

// texts are the page's words in a language.
type texts struct {
	Title, Live, Back, Paused, Lost, Moved, Busy, NoScript, Nothing     string
	Pause, Earlier, Later, Wide, Size, Auto, When, Keys, KeyList, Still string
}

var languages = map[string]texts{
	"en": {Title: "Live picture", Live: "live", Back: "earlier", Paused: "paused", Lost: "no connection; trying again", Moved: "going on at another server",
		Busy: "the servers are full; trying again", NoScript: "This page loads itself again every 5 seconds.", Nothing: "There is no picture yet.",
		Pause: "pause", Earlier: "10 seconds back", Later: "10 seconds on", Wide: "full screen", Size: "size", Auto: "automatic", When: "time",
		Keys: "keys", KeyList: "k or space: pause · ← →: 10 seconds back, on · Home: the oldest · l or End: live · f: full screen · + −: size",
		Still: "Picture of %s, taken at %s"},
	"ja": {Title: "ライブ画像", Live: "ライブ", Back: "再生中", Paused: "停止中", Lost: "接続できません。再試行しています", Moved: "別のサーバで続けます",
		Busy: "サーバが混み合っています。しばらくお待ちください", NoScript: "この画面は5秒ごとに更新されます。", Nothing: "まだ画像がありません。",
		Pause: "一時停止", Earlier: "10秒戻る", Later: "10秒進む", Wide: "全画面", Size: "大きさ", Auto: "自動", When: "時刻",
		Keys: "キー操作", KeyList: "k・スペース: 一時停止 · ← →: 10秒戻る・進む · Home: 最初 · l・End: ライブ · f: 全画面 · + −: 大きさ",
		Still: "%s の画像、%s 撮影"},
}

// New makes a Page. An error names a server whose URL is not one.
func New(o Options) (*Page, error) {
	p := &Page{o: o, html: template.Must(template.ParseFS(files, "koshien.html")), assets: map[string]asset{}}
	for name, kind := range map[string]string{"koshien.js": "text/javascript; charset=utf-8", "koshien.css": "text/css; charset=utf-8"} {
		b, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		p.assets["/"+name] = asset{kind: kind, sum: hex.EncodeToString(sum[:8]), plain: b, small: squeeze(b)}
	}
	if err := CheckServers(o.Servers); err != nil {
		return nil, err
	}
	origins := "'self'"
	for _, s := range o.Servers {
		if s.URL != "" {
			origins += " " + s.URL
		}
	}
	p.policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data: blob: " + origins + "; connect-src " + origins +
		"; base-uri 'none'; form-action 'none'"
	places := o.Servers
	if places == nil {
		places = []httpd.Place{}
	}
	b, err := json.Marshal(places)
	p.servers = string(b)
	return p, err
}

// CheckServers tells whether pages can be sent to these servers. The error names the URL that is not one.
func CheckServers(list []httpd.Place) error {
	for _, s := range list {
		if s.URL == "" {
			continue
		}
		u, err := url.Parse(s.URL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Path != "" || strings.ContainsAny(s.URL, "; ,'?#@") {
			return fmt.Errorf("%q is not like https://live.example", s.URL)
		}
	}
	return nil
}

// Files are the page for a server of plain files: index.html in English, index.ja.html in Japanese, and what they need.
func (p *Page) Files(channels []string) map[string][]byte {
	list := map[string][]byte{}
	for name, a := range p.assets {
		list[name[1:]] = a.plain
	}
	for lang, name := range map[string]string{"en": "index.html", "ja": "index.ja.html"} {
		v := p.view(lang, "", channels)
		v.Channels = nil // it has links to pages that only sentryc has
		v.Link = map[string]string{"en": "/index.ja.html", "ja": "/index.html"}[lang]
		var b bytes.Buffer
		if err := p.html.Execute(&b, v); err == nil { // as the same template for the same fields has been tested
			list[name] = b.Bytes()
		}
	}
	return list
}

// squeeze is b with gzip.
func squeeze(b []byte) []byte {
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestCompression) // no error: the level exists
	_, _ = z.Write(b)                                       // nor here: it writes to memory
	_ = z.Close()
	return out.Bytes()
}

func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	channel, watch := strings.CutPrefix(r.URL.Path, "/watch/")
	switch a, ok := p.assets[r.URL.Path]; {
	case ok:
		w.Header().Set("Cache-Control", "public, max-age=300")
		send(w, r, a)
	case r.URL.Path == "/":
		p.serve(w, r, "")
	case watch && still.CheckChannel(channel) == nil && p.smallest(channel) != nil:
		p.serve(w, r, channel)
	default:
		http.NotFound(w, r)
	}
}

// send sends an asset in the form that the browser takes.
func send(w http.ResponseWriter, r *http.Request, a asset) {
	h := w.Header()
	b, etag := a.plain, `"`+a.sum+`"`
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		b, etag = a.small, `"`+a.sum+`-gzip"`
	}
	h.Set("Content-Type", a.kind)
	h.Set("ETag", etag)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Add("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b)
}

// view is what koshien.html is filled with.
type view struct {
	Lang, Other, OtherName, Link, Title, Channel, Sizes, Servers string
	Still, Alt, Caption                                          string
	Width, Height                                                int
	Channels                                                     []string
	T                                                            texts
}

// serve makes the page of a channel; "": of the first one.
func (p *Page) serve(w http.ResponseWriter, r *http.Request, channel string) {
	v := p.view(language(r), channel, p.o.Reel.Channels())
	var b bytes.Buffer
	if err := p.html.Execute(&b, v); err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Accept-Language")
	sum := sha256.Sum256(b.Bytes())
	send(w, r, asset{kind: "text/html; charset=utf-8", sum: hex.EncodeToString(sum[:8]), plain: b.Bytes(), small: squeeze(b.Bytes())})
}

// view is what the page of a channel, or of the first one, is filled with.
func (p *Page) view(lang, channel string, channels []string) view {
	v := view{Lang: lang, Servers: p.servers, Channel: channel, Channels: channels, T: languages[lang]}
	v.Other, v.OtherName = "ja", "日本語"
	if v.Lang == "ja" {
		v.Other, v.OtherName = "en", "English"
	}
	v.Link = "?lang=" + v.Other
	if v.Title = p.o.Title[v.Lang]; v.Title == "" {
		v.Title = v.T.Title
	}
	if v.Channel == "" && len(v.Channels) > 0 {
		v.Channel = v.Channels[0]
	}
	if len(v.Channels) < 2 {
		v.Channels = nil
	}
	if f := p.smallest(v.Channel); f != nil {
		p.fill(&v, f)
	} else {
		v.Channel = "" // it may have ended in this moment
	}
	return v
}

// fill puts what is known of the channel into v. The page begins with the smallest size, f.
func (p *Page) fill(v *view, f *reel.Frame) {
	var sizes []string
	for size := range still.Sizes {
		if p.o.Reel.Newest(v.Channel, size) != nil {
			sizes = append(sizes, strconv.Itoa(size))
		}
	}
	v.Sizes = strings.Join(sizes, " ")
	v.Still = fmt.Sprintf("/stills/%s/%d/newest.jpg", v.Channel, f.Size)
	v.Width, v.Height = f.Width, f.Height
	v.Alt = fmt.Sprintf(v.T.Still, v.Channel, f.Taken.UTC().Format("15:04:05 UTC"))
	if c, ok := p.o.Reel.Caption(v.Channel, p.o.Now()); ok {
		v.Caption = c.Text
		if c.Alt != "" {
			v.Alt = c.Alt
		} else if c.Text != "" {
			v.Alt = c.Text
		}
	}
}

// smallest is the newest still of a channel in its smallest size; nil: there is none.
func (p *Page) smallest(channel string) *reel.Frame {
	for size := still.Sizes - 1; size >= 0; size-- {
		if f := p.o.Reel.Newest(channel, size); f != nil {
			return f
		}
	}
	return nil
}

// language is ?lang=, or the first that the browser names of those that there are.
func language(r *http.Request) string {
	if l := r.URL.Query().Get("lang"); l == "en" || l == "ja" {
		return l
	}
	for part := range strings.SplitSeq(r.Header.Get("Accept-Language"), ",") {
		switch l, _, _ := strings.Cut(strings.TrimSpace(strings.ToLower(part)), "-"); strings.SplitN(l, ";", 2)[0] {
		case "ja":
			return "ja"
		case "en":
			return "en"
		}
	}
	return "en"
}
