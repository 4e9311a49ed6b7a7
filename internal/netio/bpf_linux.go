package netio

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BPFProgram is an eBPF program that the kernel holds, whoever loaded it.
type BPFProgram struct {
	ID   uint32
	Type uint32 // BPF_PROG_TYPE_* of linux/bpf.h
	Name string // as its loader called it; may be empty
}

// BPFPrograms lists the eBPF programs of the machine, by id. They belong to no
// namespace.
func BPFPrograms() ([]BPFProgram, error) {
	var programs []BPFProgram
	for id := uint32(0); ; {
		// union bpf_attr of BPF_PROG_GET_NEXT_ID and BPF_PROG_GET_FD_BY_ID: start
		// id, next id, open flags.
		next := [3]uint32{id, 0, 0}
		if _, err := bpf(unix.BPF_PROG_GET_NEXT_ID, unsafe.Pointer(&next), unsafe.Sizeof(next)); err != nil {
			if errors.Is(err, unix.ENOENT) {
				return programs, nil
			}
			return nil, fmt.Errorf("list eBPF programs: %w", err)
		}
		id = next[1]
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&[3]uint32{id, 0, 0}), 12)
		if errors.Is(err, unix.ENOENT) {
			continue // unloaded meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("open eBPF program %d: %w", id, err)
		}
		p, err := bpfInfo(fd)
		unix.Close(fd)
		if err != nil {
			return nil, fmt.Errorf("query eBPF program %d: %w", id, err)
		}
		programs = append(programs, p)
	}
}

func bpfInfo(fd int) (BPFProgram, error) {
	var info [128]byte // the beginning of struct bpf_prog_info
	attr := struct {
		fd, size uint32
		info     uint64
	}{uint32(fd), uint32(len(info)), uint64(uintptr(unsafe.Pointer(&info)))}
	if _, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return BPFProgram{}, err
	}
	name, _, _ := bytes.Cut(info[64:80], []byte{0}) // offset of bpf_prog_info.name
	return BPFProgram{
		Type: *(*uint32)(unsafe.Pointer(&info[0])),
		ID:   *(*uint32)(unsafe.Pointer(&info[4])),
		Name: string(name),
	}, nil
}

// bpfGet opens a pinned object.
func bpfGet(path string) (int, error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	attr := struct {
		name      uint64
		fd, flags uint32
	}{name: uint64(uintptr(unsafe.Pointer(name)))}
	fd, err := bpf(unix.BPF_OBJ_GET, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(name)
	return fd, err
}

// bpfAttached are the programs of an attach type that a control group itself has.
func bpfAttached(fd int, kind uint32) []uint32 {
	var ids [64]uint32 // as many as a group can have
	attr := struct {
		fd, kind, query, flags uint32
		ids                    uint64
		count, _               uint32
	}{fd: uint32(fd), kind: kind, ids: uint64(uintptr(unsafe.Pointer(&ids))), count: uint32(len(ids))}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(&ids)
	if err != nil {
		return nil
	}
	return ids[:min(int(attr.count), len(ids))]
}

func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}
