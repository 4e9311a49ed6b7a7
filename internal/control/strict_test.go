package control_test

import (
	"context"
	"errors"
	"slices"

	"widecloud/internal/agent/network"
)

// strict are networks that judge what they are to carry as the real driver does: what is bad is left out, and said.
type strict struct{ bridges }

func (s *strict) Apply(ctx context.Context, w network.Want) error {
	var errs []error
	w.Networks = slices.Clone(w.Networks)
	for err := w.Validate(); err != nil; err = w.Validate() {
		errs = append(errs, err)
		i := slices.IndexFunc(w.Networks, func(n network.Network) bool {
			alone := w
			alone.Networks = []network.Network{n}
			return alone.Validate() != nil
		})
		if i < 0 {
			return err // the host's own fault
		}
		w.Networks = slices.Delete(w.Networks, i, i+1)
	}
	return errors.Join(append(errs, s.bridges.Apply(ctx, w))...)
}
