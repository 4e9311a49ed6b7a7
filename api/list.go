package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// pageSize is how many objects a Client asks for at once.
const pageSize = 1000

// List reads what the user may see of a kind, in the order of names, and the revision from which a Watch misses nothing.
func List[T any, P object[T]](ctx context.Context, c *Client) ([]*T, int64, error) {
	return Select[T, P](ctx, c, Selector{})
}

// Select is List of the objects that a selector takes. It reads page by page: what is created meanwhile may be missing, and
// what is changed may be new or old; a watch from the revision gives these changes. CodeInvalid tells what the selector
// has that the kind has not.
func Select[T any, P object[T]](ctx context.Context, c *Client, s Selector) ([]*T, int64, error) {
	items, revision, err := pages[*T](ctx, c, kindOf[T, P](), s)
	if !unknownParameter(err) {
		return items, revision, err
	}
	// The controller is of an earlier release, which knows neither pages nor selectors.
	if err := s.Check(kindOf[T, P]()); err != nil {
		return nil, 0, err
	}
	l, err := call[boundedListing[*T]](ctx, c, http.MethodGet, path(string(kindOf[T, P]())), nil)
	if err != nil {
		return nil, 0, err
	}
	wanted := []*T{}
	for _, o := range l.Items {
		if s.Matches(P(o)) {
			wanted = append(wanted, o)
		}
	}
	return wanted, l.Revision, nil
}

// Names gives the names of what the user may see of a kind.
func (c *Client) Names(ctx context.Context, k Kind) ([]string, error) {
	items, _, err := pages[Meta](ctx, c, k, Selector{})
	if unknownParameter(err) {
		l, plain := call[boundedListing[Meta]](ctx, c, http.MethodGet, path(string(k)), nil)
		if plain != nil {
			return nil, plain
		}
		items, err = l.Items, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, len(items))
	for i, m := range items {
		names[i] = m.Name
	}
	return names, nil
}

// pages reads all pages of a list. The revision is that of the first, from which a watch misses no change of the others.
func pages[T any](ctx context.Context, c *Client, k Kind, s Selector) (items []T, revision int64, err error) {
	q := s.Query()
	q.Set("limit", strconv.Itoa(pageSize))
	items = []T{}
	for first := true; ; first = false {
		l, err := call[boundedListing[T]](ctx, c, http.MethodGet, path(string(k))+"?"+q.Encode(), nil)
		if err != nil {
			return nil, 0, err
		}
		if first {
			revision = l.Revision
		}
		items = append(items, l.Items...)
		switch {
		case l.Next == "":
			return items, revision, nil
		case len(l.Items) == 0: // it would go on for ever
			return nil, 0, Errorf(CodeInternal, "the answer is not a controller's: an empty page of %s has another after it", k)
		case len(items) > maxItems:
			return nil, 0, fmt.Errorf("list %s: %w", k, errManyItems)
		}
		q.Set("cursor", l.Next)
	}
}

// unknownParameter tells the refusal of a controller that does not know a parameter of the request.
func unknownParameter(err error) bool {
	const text = "unknown query parameter"
	var e *Error
	return errors.As(err, &e) && e.Code == CodeInvalid && (e.Message == text ||
		slices.ContainsFunc(e.Reasons, func(r Reason) bool { return strings.HasSuffix(r.Message, text) }))
}
