package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// MergePatchType is the content type of a JSON Merge Patch (RFC 7396).
const MergePatchType = "application/merge-patch+json"

// MergePatch applies a JSON Merge Patch (RFC 7396) to a JSON document: a member of the patch replaces that of the document,
// null removes it, and objects are merged member by member. Lists are replaced whole.
func MergePatch(document, patch []byte) ([]byte, error) {
	var d, p any
	if err := decodeNumbers(document, &d); err != nil {
		return nil, fmt.Errorf("decode the document: %w", err)
	}
	if err := decodeNumbers(patch, &p); err != nil {
		return nil, fmt.Errorf("decode the patch: %w", err)
	}
	return json.Marshal(merge(d, p))
}

// decodeNumbers keeps numbers as they are written: an int64 does not fit into a float64.
func decodeNumbers(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("there is more after its end")
	}
	return nil
}

// merge is MergePatch of RFC 7396 §2.
func merge(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	for key, value := range p {
		if value == nil {
			delete(t, key)
		} else {
			t[key] = merge(t[key], value)
		}
	}
	return t
}

// ETag is the ETag of an object at a revision.
func ETag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// Patch changes what a JSON Merge Patch names (of spec and labels) and leaves the rest as it is at that moment, so that nobody
// else's change is lost. The patch is anything that encoding/json makes it of, such as a map. With a revision that is not
// zero, CodeConflict tells that it is no longer the newest.
func Patch[T any, P object[T]](ctx context.Context, c *Client, name string, patch any, revision int64) (*T, error) {
	body, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("encode the patch: %w", err)
	}
	r, err := c.request(ctx, http.MethodPatch, path(string(kindOf[T, P]()), name), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", MergePatchType)
	if revision != 0 {
		r.Header.Set("If-Match", ETag(revision))
	}
	o := new(T)
	err = c.send(r, o)
	var e *Error
	if errors.As(err, &e) && e.Code == CodeInvalid && strings.HasPrefix(e.Message, "PATCH is not possible on ") {
		return patchByPut[T, P](ctx, c, name, body, revision) // the controller is of an earlier release
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

// patchByPut is Patch for a controller that knows PUT alone.
func patchByPut[T any, P object[T]](ctx context.Context, c *Client, name string, patch []byte, revision int64) (*T, error) {
	return Edit[T, P](ctx, c, name, func(o *T) error {
		if have := P(o).Metadata().Revision; revision != 0 && revision != have {
			return &Error{Code: CodeConflict, Field: "revision", Message: fmt.Sprintf("%s has changed since revision %d (it is at %d)", name, revision, have)}
		}
		b, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
		if b, err = MergePatch(b, patch); err != nil {
			return err
		}
		*o = *new(T)
		return json.Unmarshal(b, o)
	})
}

// DeleteRevision is Delete of an object that is still at a revision; CodeConflict tells that it is not.
func DeleteRevision[T any, P object[T]](ctx context.Context, c *Client, name string, revision int64) (*T, error) {
	r, err := c.request(ctx, http.MethodDelete, path(string(kindOf[T, P]()), name), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("If-Match", ETag(revision))
	o := new(T)
	if err := c.send(r, o); err != nil {
		return nil, err
	}
	return o, nil
}
