package state

import "context"

type actorKey struct{}

// As marks the writes of ctx as made on somebody's account. Without a mark they are the site's own.
func As(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, actorKey{}, who)
}

// Actor is on whose account the transaction writes; "" is the site itself.
func (tx *Tx) Actor() string { return tx.actor }

func actorOf(ctx context.Context) string {
	who, _ := ctx.Value(actorKey{}).(string)
	return who
}
