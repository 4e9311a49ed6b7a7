package api_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
)

// TestMergePatch is the table of RFC 7396, Appendix A, and what Go's JSON makes hard.
func TestMergePatch(t *testing.T) {
	for _, tt := range []struct{ document, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"n":9007199254740993}`, `{"m":9007199254740995}`, `{"m":9007199254740995,"n":9007199254740993}`},
	} {
		got, err := api.MergePatch([]byte(tt.document), []byte(tt.patch))
		if err != nil || string(got) != tt.want {
			t.Errorf("%s with %s: %s, %v; want %s", tt.document, tt.patch, got, err, tt.want)
		}
	}
	for _, patch := range []string{``, `{`, `{} {}`} {
		if got, err := api.MergePatch([]byte(`{}`), []byte(patch)); err == nil {
			t.Errorf("%q is taken: %s", patch, got)
		}
	}
}

func TestClientPatch(t *testing.T) {
	c, ctl, _ := newClient(t, "admin-token")
	ctl.Put(&api.VM{Meta: api.Meta{Name: "web1", Labels: map[string]string{"app": "web", "old": "x"}}, Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1}, Image: "tiny"}})
	v, err := api.Patch[api.VM](t.Context(), c, "web1", map[string]any{"spec": map[string]any{"power": "off"}, "labels": map[string]any{"new": "y", "old": nil}}, 1)
	if err != nil || v.Spec.Power != api.PowerOff || v.Spec.CPUs != 1 || !cmp.Equal(v.Labels, map[string]string{"app": "web", "new": "y"}) {
		t.Errorf("%+v, %v", v, err)
	}
	conflict := &api.Error{Code: api.CodeConflict, Field: "revision"}
	if _, err := api.Patch[api.VM](t.Context(), c, "web1", map[string]any{}, 1); !errors.Is(err, conflict) {
		t.Errorf("an old revision: %v", err)
	}
	if _, err := api.DeleteRevision[api.VM](t.Context(), c, "web1", 1); !errors.Is(err, conflict) {
		t.Errorf("delete an old revision: %v", err)
	}
	if _, err := api.DeleteRevision[api.VM](t.Context(), c, "web1", v.Revision); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// TestPatchOfEarlierRelease patches at a controller that knows PUT alone, while somebody else changes the object.
func TestPatchOfEarlierRelease(t *testing.T) {
	vm := api.VM{Meta: api.Meta{Name: "web1", Revision: 1}, Spec: api.VMSpec{Hardware: api.Hardware{CPUs: 1}}}
	refuse := func(w http.ResponseWriter, e *api.Error, status int) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(e)
	}
	puts := 0
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case "PATCH":
			refuse(w, api.Errorf(api.CodeInvalid, "PATCH is not possible on %s; possible: [GET PUT DELETE]", r.URL.Path), 405)
			return
		case "PUT":
			if puts++; puts == 1 {
				vm.Spec.Image, vm.Revision = "other", 2
			}
			var n api.VM
			b, _ := io.ReadAll(r.Body)
			if err := json.Unmarshal(b, &n); err != nil {
				t.Error(err)
			}
			if n.Revision != vm.Revision {
				refuse(w, api.Errorf(api.CodeConflict, "it has changed"), 409)
				return
			}
			vm.Spec, vm.Revision = n.Spec, 3
		}
		json.NewEncoder(w).Encode(vm)
	}))
	defer h.Close()
	c, err := api.NewClient(h.URL, "t", nil)
	if err != nil {
		t.Fatal(err)
	}
	patch := map[string]any{"spec": map[string]any{"cpus": 4}}
	v, err := api.Patch[api.VM](t.Context(), c, "web1", patch, 0)
	if err != nil || v.Spec.CPUs != 4 || v.Spec.Image != "other" || puts != 2 {
		t.Errorf("after %d puts: %+v, %v", puts, v, err)
	}
	if _, err := api.Patch[api.VM](t.Context(), c, "web1", patch, 1); !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
		t.Errorf("an old revision: %v", err)
	}
}
