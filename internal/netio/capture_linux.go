package netio

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Capture opens a socket that sees the frames of a device of the namespace, in both
// directions: each Read is one frame, from its Ethernet header on. A Read waits for
// a frame until the file is closed. See packet(7).
func (n *NS) Capture(device string) (*os.File, error) {
	l, err := n.Link(device)
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", device, err)
	}
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network byte order
	var fd int
	err = n.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		// Nothing is seen before the socket is bound: frames of other devices would be.
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Index}))
	})
	if err != nil {
		if fd > 0 {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("capture on %s: %w", device, err)
	}
	return os.NewFile(uintptr(fd), "capture "+device), nil
}
