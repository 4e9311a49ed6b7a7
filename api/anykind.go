package api

import (
	"context"
	"iter"
)

// The methods of a Client that take a Kind are Get, Create, Patch, Delete, Select, WatchSelected and Follow for a kind that is known only
// when the program runs. For one that there is not, their error is CodeNotFound.

// Get reads an object.
func (c *Client) Get(ctx context.Context, k Kind, name string) (Object, error) {
	n, err := NounOf(k)
	if err != nil {
		return nil, err
	}
	return n.calls.get(ctx, c, name)
}

// Create makes an object and gives it as it was accepted. It is repeated when its answer is lost on the way, and takes effect once.
func (c *Client) Create(ctx context.Context, o Object) (Object, error) {
	n, err := NounOf(o.Kind())
	if err != nil {
		return nil, err
	}
	return n.calls.create(ctx, c, o)
}

// Patch changes what a JSON Merge Patch names, at a revision or, with zero, whatever it is.
func (c *Client) Patch(ctx context.Context, k Kind, name string, patch any, revision int64) (Object, error) {
	n, err := NounOf(k)
	if err != nil {
		return nil, err
	}
	return n.calls.patch(ctx, c, name, patch, revision)
}

// Delete asks for an object's end.
func (c *Client) Delete(ctx context.Context, k Kind, name string) (Object, error) {
	n, err := NounOf(k)
	if err != nil {
		return nil, err
	}
	return n.calls.remove(ctx, c, name)
}

// Select reads the objects of a kind that a selector takes, and the revision from which a watch misses nothing.
func (c *Client) Select(ctx context.Context, k Kind, s Selector) ([]Object, int64, error) {
	n, err := NounOf(k)
	if err != nil {
		return nil, 0, err
	}
	return n.calls.list(ctx, c, s)
}

// Watch gives the changes of the objects that a selector takes after a revision.
func (c *Client) Watch(ctx context.Context, k Kind, s Selector, from int64) iter.Seq2[WatchEvent[Object], error] {
	n, err := NounOf(k)
	if err != nil {
		return func(yield func(WatchEvent[Object], error) bool) { yield(WatchEvent[Object]{}, err) }
	}
	return n.calls.watch(ctx, c, s, from)
}

// Follow gives an object as it is and after each change of it, until it is gone.
func (c *Client) Follow(ctx context.Context, k Kind, name string) iter.Seq2[Object, error] {
	n, err := NounOf(k)
	if err != nil {
		return func(yield func(Object, error) bool) { yield(nil, err) }
	}
	return n.calls.follow(ctx, c, name)
}

// calls are the typed functions behind these methods.
type calls interface {
	get(ctx context.Context, c *Client, name string) (Object, error)
	create(ctx context.Context, c *Client, o Object) (Object, error)
	patch(ctx context.Context, c *Client, name string, patch any, revision int64) (Object, error)
	remove(ctx context.Context, c *Client, name string) (Object, error)
	list(ctx context.Context, c *Client, s Selector) ([]Object, int64, error)
	watch(ctx context.Context, c *Client, s Selector, from int64) iter.Seq2[WatchEvent[Object], error]
	follow(ctx context.Context, c *Client, name string) iter.Seq2[Object, error]
}

// callsOf are the calls of a noun's type.
type callsOf[T any, P object[T]] struct{}

// plain is an object of whatever kind; nil with an error.
func plain[T any, P object[T]](o *T, err error) (Object, error) {
	if err != nil {
		return nil, err
	}
	return P(o), nil
}

func (callsOf[T, P]) get(ctx context.Context, c *Client, name string) (Object, error) {
	return plain[T, P](Get[T, P](ctx, c, name))
}

func (callsOf[T, P]) create(ctx context.Context, c *Client, o Object) (Object, error) {
	return plain[T, P](Create[T, P](ctx, c, o.(P)))
}

func (callsOf[T, P]) patch(ctx context.Context, c *Client, name string, patch any, revision int64) (Object, error) {
	return plain[T, P](Patch[T, P](ctx, c, name, patch, revision))
}

func (callsOf[T, P]) remove(ctx context.Context, c *Client, name string) (Object, error) {
	return plain[T, P](Delete[T, P](ctx, c, name))
}

func (callsOf[T, P]) list(ctx context.Context, c *Client, s Selector) ([]Object, int64, error) {
	items, revision, err := Select[T, P](ctx, c, s)
	if err != nil {
		return nil, 0, err
	}
	out := make([]Object, len(items))
	for i, o := range items {
		out[i] = P(o)
	}
	return out, revision, nil
}

func (callsOf[T, P]) watch(ctx context.Context, c *Client, s Selector, from int64) iter.Seq2[WatchEvent[Object], error] {
	return func(yield func(WatchEvent[Object], error) bool) {
		for e, err := range WatchSelected[T, P](ctx, c, s, from) {
			if err != nil {
				yield(WatchEvent[Object]{}, err)
				return
			}
			if !yield(WatchEvent[Object]{Type: e.Type, Revision: e.Revision, Kind: e.Kind, Object: P(e.Object)}, nil) {
				return
			}
		}
	}
}

func (callsOf[T, P]) follow(ctx context.Context, c *Client, name string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		for o, err := range Follow[T, P](ctx, c, name) {
			if o, err := plain[T, P](o, err); !yield(o, err) {
				return
			}
		}
	}
}
