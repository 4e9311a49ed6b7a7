package cast

import (
	"context"
	"sync"
)

// queue holds the stills that wait for one destination: at most one of each stream, the newest.
type queue struct {
	mu      sync.Mutex
	order   []streamID
	waiting map[streamID][]Datagram
	wake    chan struct{}
}

func newQueue() *queue {
	return &queue{waiting: map[streamID][]Datagram{}, wake: make(chan struct{}, 1)}
}

// put adds a still. It tells whether an older one of its stream has not been sent, and never will be.
func (q *queue) put(id streamID, d []Datagram) (replaced bool) {
	q.mu.Lock()
	_, replaced = q.waiting[id]
	if !replaced { // else it has the older one's place, so that each stream gets its turn on a slow line
		q.order = append(q.order, id)
	}
	q.waiting[id] = d
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return replaced
}

// take waits for the still that has waited longest; nil when ctx has ended.
func (q *queue) take(ctx context.Context) []Datagram {
	for ctx.Err() == nil {
		if d := q.next(); d != nil {
			return d
		}
		select {
		case <-ctx.Done():
		case <-q.wake:
		}
	}
	return nil
}

func (q *queue) next() []Datagram {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return nil
	}
	id := q.order[0]
	d := q.waiting[id]
	q.order = q.order[1:]
	delete(q.waiting, id)
	return d
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.order)
}
