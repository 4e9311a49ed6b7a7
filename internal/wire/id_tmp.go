package wire

import "sync"

var tmpIDs sync.Map
var tmpMu sync.Mutex
var tmpN uint64

// ID is temporary.
func (s *Session) ID() uint64 {
	tmpMu.Lock()
	defer tmpMu.Unlock()
	v, ok := tmpIDs.Load(s)
	if !ok {
		tmpN++
		tmpIDs.Store(s, tmpN)
		return tmpN
	}
	return v.(uint64)
}
