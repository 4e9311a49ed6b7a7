package wire

import "net"

// OpenRaw opens a stream on which nothing is said yet, for tests of peers with bad manners.
func (s *Session) OpenRaw() (net.Conn, error) { return s.m.open() }

// What tests of recorded messages need.
type (
	Hello       = hello
	JoinMessage = joinMessage
	JoinAnswer  = joinAnswer
)

var (
	ForLevel     = forLevel
	DecodeStrict = decodeStrict
)
