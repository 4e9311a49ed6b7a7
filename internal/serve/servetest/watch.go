package servetest

import (
	"context"
	"io"

	"widecloud/internal/serve"
)

// Channel makes a watch of a channel, which ends when the channel is closed.
func Channel(ch <-chan serve.Change, end func()) serve.Watch { return channel{ch, end} }

type channel struct {
	ch  <-chan serve.Change
	end func()
}

func (c channel) Next(ctx context.Context) ([]serve.Change, int64, error) {
	select {
	case change, ok := <-c.ch:
		if !ok {
			return nil, 0, io.EOF
		}
		return []serve.Change{change}, 0, nil
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

func (c channel) Close() { c.end() }

// Changes gives what a watch gives one by one, until the watch or ctx ends; then the channel is closed.
func Changes(ctx context.Context, w serve.Watch) <-chan serve.Change {
	out := make(chan serve.Change)
	go func() {
		defer close(out)
		defer w.Close()
		for {
			changes, _, err := w.Next(ctx)
			if err != nil {
				return
			}
			for _, ch := range changes {
				select {
				case out <- ch:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}
