package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"widecloud/api"
)

// TestListPages reads more objects than a page has.
func TestListPages(t *testing.T) {
	c, ctl, _ := newClient(t, "admin-token")
	const n = 2500
	for i := range n {
		ctl.Put(&api.Event{Meta: api.Meta{Name: fmt.Sprintf("e%04d", i), Labels: map[string]string{"odd": fmt.Sprint(i % 2)}}})
	}
	all, revision, err := api.List[api.Event](t.Context(), c)
	if err != nil || len(all) != n || revision != n {
		t.Fatalf("%d events at revision %d, %v", len(all), revision, err)
	}
	for i, e := range all {
		if e.Name != fmt.Sprintf("e%04d", i) {
			t.Fatalf("event %d is %s", i, e.Name)
		}
	}
	odd, _, err := api.Select[api.Event](t.Context(), c, api.Selector{Labels: []api.LabelTerm{{Key: "odd", Op: api.LabelEqual, Value: "1"}}})
	if err != nil || len(odd) != n/2 || odd[0].Name != "e0001" {
		t.Errorf("%d odd ones, %v", len(odd), err)
	}
	names, err := c.Names(t.Context(), api.KindEvent)
	if err != nil || len(names) != n || names[n-1] != "e2499" {
		t.Errorf("%d names, %v", len(names), err)
	}
	if none, _, err := api.List[api.VM](t.Context(), c); err != nil || none == nil || len(none) != 0 {
		t.Errorf("of nothing: %v, %v", none, err)
	}
	_, _, err = api.Select[api.VM](t.Context(), c, api.Selector{States: []string{"runing"}})
	if err == nil || !strings.Contains(err.Error(), "is not a state of vms") {
		t.Errorf("a state that is none: %v", err)
	}
}

// TestEndlessPages meets a server whose list never ends.
func TestEndlessPages(t *testing.T) {
	for items, want := range map[string]string{"": "an empty page of vms has another after it", "{}" + strings.Repeat(",{}", 99_999): "more than 200000 objects"} {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"revision":1,"items":[%s],"next":"x"}`, items)
		}))
		defer h.Close()
		c, err := api.NewClient(h.URL, "t", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := api.List[api.VM](t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestEarlierRelease speaks to a controller that refuses every parameter that it does not know, as the first release does.
func TestEarlierRelease(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := api.Error{Code: api.CodeInvalid}
		for key := range r.URL.Query() {
			if key != "watch" && key != "from" {
				e.Field, e.Message = key, "unknown query parameter"
				e.Reasons = append(e.Reasons, api.Reason{Code: "invalid", Message: key + ": unknown query parameter"})
			}
		}
		if len(e.Reasons) > 1 {
			e.Field, e.Message = "", "the request is not valid"
		} else {
			e.Reasons = nil
		}
		switch {
		case e.Message != "":
			w.WriteHeader(e.HTTPStatus())
			json.NewEncoder(w).Encode(&e)
		case r.URL.Query().Has("watch"):
			io.WriteString(w, "id: 8\nevent: put\ndata: {\"type\":\"put\",\"revision\":8,\"object\":{\"name\":\"db\"}}\n\n"+
				"id: 9\nevent: put\ndata: {\"type\":\"put\",\"revision\":9,\"object\":{\"name\":\"web2\"}}\n\n")
		default:
			io.WriteString(w, `{"revision":7,"items":[{"name":"db"},{"name":"web1"}]}`)
		}
	}))
	defer h.Close()
	c, err := api.NewClient(h.URL, "t", nil)
	if err != nil {
		t.Fatal(err)
	}
	web := api.Selector{Name: "web", States: []string{"pending"}}
	got, revision, err := api.Select[api.VM](t.Context(), c, web)
	if err != nil || revision != 7 || len(got) != 1 || got[0].Name != "web1" {
		t.Errorf("selected %v at %d, %v", got, revision, err)
	}
	all, _, err := api.List[api.VM](t.Context(), c)
	if err != nil || len(all) != 2 {
		t.Errorf("all: %v, %v", all, err)
	}
	names, err := c.Names(t.Context(), api.KindVM)
	if err != nil || len(names) != 2 {
		t.Errorf("names: %v, %v", names, err)
	}
	for e, err := range api.WatchSelected[api.VM](t.Context(), c, web, 7) {
		if err != nil || e.Object.Name != "web2" || e.Revision != 9 {
			t.Errorf("watched %+v, %v", e, err)
		}
		break
	}
	if _, _, err := api.Select[api.VM](t.Context(), c, api.Selector{States: []string{"runing"}}); err == nil {
		t.Error("a state that is none is taken")
	}
}

// TestWatchKinds watches two kinds in one stream, over a break in the middle.
func TestWatchKinds(t *testing.T) {
	c, ctl, _ := newClient(t, "admin-token")
	ctl.Put(&api.VM{Meta: api.Meta{Name: "before"}})
	ctl.Put(&api.VM{Meta: api.Meta{Name: "first"}})
	put := func() {
		ctl.Put(&api.Job{Meta: api.Meta{Name: "j1"}})
		ctl.Put(&api.Image{Meta: api.Meta{Name: "not-watched"}})
		ctl.Put(&api.VM{Meta: api.Meta{Name: "web1"}})
	}
	var got []string
	for e, err := range api.WatchKinds(t.Context(), c, []api.Kind{api.KindVM, api.KindJob}, api.Selector{}, 1) {
		if err != nil {
			t.Fatal(err)
		}
		switch o := e.Object.(type) {
		case *api.VM:
			got = append(got, fmt.Sprint(e.Type, " vm ", o.Name, " ", e.Revision))
		case *api.Job:
			got = append(got, fmt.Sprint(e.Type, " job ", o.Name, " ", e.Revision))
		}
		if len(got) == 1 {
			ctl.Drop()
			put()
		}
		if len(got) == 3 {
			break
		}
		if len(got) > 3 {
			t.Fatal(got)
		}
	}
	if want := "[put vm first 2 put job j1 3 put vm web1 5]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	for _, err := range api.WatchKinds(t.Context(), c, []api.Kind{"pods"}, api.Selector{}, 1) {
		if err == nil || !strings.Contains(err.Error(), "is not a kind") {
			t.Errorf("a kind that is none: %v", err)
		}
	}
	for k := range api.Kinds() {
		if o := api.NewObject(api.Kinds()[k]); o == nil || o.Kind() != api.Kinds()[k] {
			t.Errorf("a new object of %s is %v", api.Kinds()[k], o)
		}
	}
}
