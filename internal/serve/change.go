package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"widecloud/api"
)

// IfMatchInput is the condition of a change (RFC 9110 §13.1.1): the ETag that the object must still have.
type IfMatchInput struct {
	IfMatch  string `header:"If-Match" doc:"the object's ETag: 412 when it has changed since; * or left out: whatever it is"`
	revision int64  // 0: any
}

// Resolve reads the ETag, which is the object's revision (huma.Resolver). A proxy that compresses answers may have made it weak.
func (in *IfMatchInput) Resolve(huma.Context) []error {
	text := strings.TrimSpace(in.IfMatch)
	if text == "" || text == "*" {
		return nil
	}
	quoted := strings.TrimPrefix(text, "W/")
	tag, err := strconv.Unquote(quoted)
	if err != nil || !strings.HasPrefix(quoted, `"`) {
		return []error{errorBody{apiError: api.Invalidf("If-Match", `%q is not one ETag, such as "42", or *`, text)}}
	}
	if in.revision, err = strconv.ParseInt(tag, 10, 64); err != nil || in.revision <= 0 {
		in.revision = -1 // an ETag that no object ever had
	}
	return nil
}

// failed is fail for a change with a condition: a revision that is no longer the newest is 412 then.
func (in *IfMatchInput) failed(e errorBody) errorBody {
	if in.revision != 0 && e.Code == api.CodeConflict && e.Field == "revision" {
		e.status = http.StatusPreconditionFailed
	}
	return e
}

type revisionKey struct{}

// WithRevision makes the ctx of a Delete that has a condition.
func WithRevision(ctx context.Context, revision int64) context.Context {
	return context.WithValue(ctx, revisionKey{}, revision)
}

// RevisionOf is the revision that the object of a Delete must have; 0: any.
func RevisionOf(ctx context.Context) int64 {
	revision, _ := ctx.Value(revisionKey{}).(int64)
	return revision
}

// PatchInput is a JSON Merge Patch (RFC 7396) of an object.
type PatchInput struct {
	Name string `path:"name" doc:"the object's name"`
	IfMatchInput
	patch []byte
}

// Resolve reads the patch (huma.Resolver): huma's own reader takes JSON of other content types only. IfMatchInput's is called
// here, too: embedded, it is hidden.
func (in *PatchInput) Resolve(ctx huma.Context) []error {
	if t, _, err := mime.ParseMediaType(ctx.Header("Content-Type")); err != nil || t != api.MergePatchType {
		return []error{errorBody{status: http.StatusUnsupportedMediaType,
			apiError: api.Invalidf("Content-Type", "is %s, must be %s", ctx.Header("Content-Type"), api.MergePatchType)}}
	}
	most := ctx.Operation().MaxBodyBytes
	b, err := io.ReadAll(io.LimitReader(ctx.BodyReader(), most+1))
	var ours errorBody
	switch {
	case errors.As(err, &ours):
		return []error{ours}
	case err != nil:
		return []error{errorBody{apiError: api.Invalidf("body", "broke off: %v", err)}}
	case int64(len(b)) > most:
		return []error{errorBody{status: http.StatusRequestEntityTooLarge, apiError: api.Invalidf("body", "is larger than %d bytes", most)}}
	case len(bytes.TrimSpace(b)) == 0:
		return []error{errorBody{apiError: api.Invalidf("body", "is missing: send a JSON object")}}
	}
	in.patch = b
	return in.IfMatchInput.Resolve(ctx)
}

// patchTries is how often a patch is applied again to an object that changes meanwhile.
const patchTries = 10

// registerPatch makes the path that changes a part of one object.
func (s *Server) registerPatch(h huma.API, n api.Noun, one func(context.Context, api.Object, error) (*objectOutput[api.Object], error)) {
	tag := string(n.Kind)
	registry, schema := h.OpenAPI().Components.Schemas, objectSchema(h, n)
	op := s.objectOperation(h, n, "patch", http.MethodPatch, "/v1/"+tag+"/{name}", "Change a part of one of "+tag, http.StatusOK)
	op.Description = "A JSON Merge Patch (RFC 7396) of spec and labels: what it does not name stays as it is, null removes. All else is " +
		"read only, and refused."
	op.Errors = []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict,
		http.StatusPreconditionFailed, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}
	ctl := s.o.Controller
	huma.Register(h, op, func(ctx context.Context, in *PatchInput) (*objectOutput[api.Object], error) {
		if err := checkPatch(registry, schema, in.patch); err != nil {
			return nil, s.fail(ctx, err)
		}
		for try := 1; ; try++ {
			have, err := ctl.Get(ctx, who(ctx), n.Kind, in.Name)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			revision := have.Metadata().Revision
			if in.revision != 0 && in.revision != revision {
				return nil, in.failed(errorBody{apiError: &api.Error{Code: api.CodeConflict, Field: "revision",
					Message: fmt.Sprintf("%s %s has changed since (it is at %d)", nameOf(n), in.Name, revision)}})
			}
			now, err := patched(n, have, in.patch)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			o, err := ctl.Update(ctx, who(ctx), now)
			if moved := errors.Is(err, &api.Error{Code: api.CodeConflict, Field: "revision"}); moved && in.revision == 0 && try < patchTries {
				continue
			}
			if err != nil {
				return nil, in.failed(s.fail(ctx, err))
			}
			return one(ctx, o, nil)
		}
	})
	// For the description alone: of an operation that has it before, huma reads the body, and refuses null.
	h.OpenAPI().Paths[op.Path].Patch.RequestBody = &huma.RequestBody{Required: true,
		Content: map[string]*huma.MediaType{api.MergePatchType: {Schema: schema}}}
}

// patched is an object with a patch applied, at its own revision.
func patched(n api.Noun, have api.Object, patch []byte) (api.Object, error) {
	b, err := json.Marshal(have)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", have.Metadata().Name, err)
	}
	if b, err = api.MergePatch(b, patch); err != nil {
		return nil, api.Invalidf("body", "is not JSON: %v", err)
	}
	now := n.New()
	if err := json.Unmarshal(b, now); err != nil {
		return nil, api.Invalidf("body", "cannot be applied: %v", err)
	}
	if m := now.Metadata(); m.Labels == nil {
		m.Labels = map[string]string{} // the patch has removed them; nil would keep them
	}
	return now, nil
}

// patchable are the members of an object that a patch may name. That an owner cannot be changed is the Controller's to say.
var patchable = map[string]bool{"spec": true, "labels": true, "owner": true}

// checkPatch judges a patch by the schema of the object: unknown members, other types, and members that are not a client's to
// write are all named.
func checkPatch(registry huma.Registry, schema *huma.Schema, patch []byte) error {
	var p any
	if err := json.Unmarshal(patch, &p); err != nil {
		return api.Invalidf("body", "is not JSON: %v", err)
	}
	members, ok := p.(map[string]any)
	if !ok {
		return api.Invalidf("body", "expected object")
	}
	if labels, ok := members["labels"].(map[string]any); ok { // null removes a label; the schema knows texts only
		for key, value := range labels {
			if value == nil {
				labels[key] = ""
			}
		}
	}
	var found huma.ValidateResult
	path := huma.NewPathBuffer([]byte{}, 0)
	huma.Validate(registry, schema, path, huma.ModeWriteToServer, p, &found)
	var faults []*api.Error
	for _, err := range found.Errors {
		f := finding{message: err.Error()}
		var d huma.ErrorDetailer
		if errors.As(err, &d) {
			f = finding{d.ErrorDetail().Location, d.ErrorDetail().Message}
		}
		faults = append(faults, api.Invalidf(f.field, "%s", f.message))
	}
	object := schema
	for object.Ref != "" {
		object = registry.SchemaFromRef(object.Ref)
	}
	for _, member := range slices.Sorted(maps.Keys(members)) {
		if object.Properties[member] != nil && !patchable[member] {
			faults = append(faults, api.Invalidf(member, "is read only: a patch changes spec and labels"))
		}
	}
	if len(faults) > 0 {
		return api.Faults(faults...)
	}
	return nil
}
