package cloud

import "widecloud/api"

// CheckEpoch judges an order for a VM against the highest epoch that was seen of it (0: none yet). A lower one is
// refused with api.CodeStale; an equal one may be a repetition, and following it again must change nothing; fresh tells
// that it is higher, and is to be persisted before anything is done (law 2).
func CheckEpoch(vm string, seen, order uint64) (fresh bool, err error) {
	switch {
	case order == 0:
		return false, api.Invalidf("epoch", "of VM %s is 0: epochs begin with 1", vm)
	case order < seen:
		return false, api.Errorf(api.CodeStale, "order for VM %s has epoch %d, %d was seen", vm, order, seen)
	}
	return order > seen, nil
}

// Epochs are the highest epochs seen, by the VM's UID.
type Epochs map[string]uint64

// Accept is CheckEpoch, and notes the epoch if it is fresh.
func (e Epochs) Accept(vm string, order uint64) (fresh bool, err error) {
	fresh, err = CheckEpoch(vm, e[vm], order)
	if fresh {
		e[vm] = order
	}
	return fresh, err
}
