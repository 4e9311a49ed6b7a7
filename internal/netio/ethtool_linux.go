package netio

import (
	"bytes"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of linux/ethtool.h.
const (
	ethtoolGStrings  = 0x1b
	ethtoolGSSetInfo = 0x37
	ethtoolGFeatures = 0x3a
	ethSSFeatures    = 4
	ethGStringLen    = 32
)

// Offloads returns a device's features by the kernel's names ("rx-gro",
// "rx-gro-list", "rx-lro", "rx-checksum", "rx-vlan-hw-parse",
// "tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation", ...),
// each with whether it is on. fs.ErrNotExist if there is no such device.
func (n *NS) Offloads(dev string) (map[string]bool, error) {
	var features map[string]bool
	err := n.Do(func() (err error) {
		features, err = offloads(dev)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read features of %s: %w", dev, err)
	}
	return features, nil
}

func offloads(dev string) (map[string]bool, error) {
	if len(dev) >= unix.IFNAMSIZ {
		return nil, unix.ENODEV
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	ask := func(data unsafe.Pointer) error {
		req := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte // struct ifreq is longer
		}{data: data}
		copy(req.name[:], dev)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
		runtime.KeepAlive(data)
		if errno == unix.ENODEV {
			return notExist(errno)
		}
		if errno != 0 {
			return errno
		}
		return nil
	}
	info := struct {
		cmd, reserved uint32
		mask          uint64
		length        uint32
		_             uint32
	}{cmd: ethtoolGSSetInfo, mask: 1 << ethSSFeatures}
	if err := ask(unsafe.Pointer(&info)); err != nil {
		return nil, err
	}
	n := int(info.length)
	if n == 0 || n > 1024 {
		return nil, fmt.Errorf("%d features", n)
	}
	// struct ethtool_gstrings and ethtool_gfeatures, each with its array behind.
	names := make([]uint32, 3+n*ethGStringLen/4)
	names[0], names[1], names[2] = ethtoolGStrings, ethSSFeatures, uint32(n)
	if err := ask(unsafe.Pointer(&names[0])); err != nil {
		return nil, err
	}
	blocks := (n + 31) / 32
	values := make([]uint32, 2+4*blocks)
	values[0], values[1] = ethtoolGFeatures, uint32(blocks)
	if err := ask(unsafe.Pointer(&values[0])); err != nil {
		return nil, err
	}
	text := unsafe.Slice((*byte)(unsafe.Pointer(&names[3])), n*ethGStringLen)
	features := make(map[string]bool, n)
	for i := range n {
		name, _, _ := bytes.Cut(text[i*ethGStringLen:(i+1)*ethGStringLen], []byte{0})
		if len(name) > 0 {
			// available, requested, active, never changed
			features[string(name)] = values[2+4*(i/32)+2]>>(i%32)&1 != 0
		}
	}
	return features, nil
}
