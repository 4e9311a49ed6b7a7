package fake

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"widecloud/internal/hyper"
)

// The disk of a VM that does not run is copied beside the hypervisor: SendDisk and TakeDisk are what package volume is on a
// real host. What they send is Options.GuestDisk bytes, of which the first tell what is on the disk, and their SHA-256.

// DiskBytes is how many bytes SendDisk tells that it has sent.
func (h *Host) DiskBytes() int64 { return int64(h.o.GuestDisk) }

// SendDisk writes what the disk at a path holds. It takes the time of a migration. It refuses a disk that a domain has.
func (h *Host) SendDisk(ctx context.Context, path string, w io.Writer, sent func(n int64)) (digest string, err error) {
	h.mu.Lock()
	counter := h.disks[path]
	for vm, d := range h.domains {
		for _, k := range d.spec.Disks {
			if k.Path == path {
				err = fmt.Errorf("send disk %s: the domain of VM %s has it", path, vm)
			}
		}
	}
	h.mu.Unlock()
	if err != nil {
		return "", err
	}
	all := make([]byte, h.o.GuestDisk)
	rand.NewChaCha8(sha256.Sum256([]byte(path))).Read(all)
	binary.BigEndian.PutUint64(all, counter)
	sum := sha256.Sum256(all)
	for at := 0; at < len(all); at += chunk {
		if err := sleep(ctx, h.o.ChunkTime); err != nil {
			return "", err
		}
		n, err := w.Write(all[at:min(at+chunk, len(all))])
		if err != nil {
			return "", err
		}
		sent(int64(n))
	}
	_, err = w.Write(sum[:])
	return hex.EncodeToString(sum[:]), err
}

// TakeDisk reads what SendDisk of another host writes, and gives what WriteDisk is to write.
func (h *Host) TakeDisk(ctx context.Context, r io.Reader) (counter uint64, digest string, err error) {
	h.mu.Lock()
	free := h.free
	h.mu.Unlock()
	if free >= 0 && free < h.DiskBytes() {
		return 0, "", fmt.Errorf("take disk: %w", hyper.ErrNoSpace)
	}
	all := make([]byte, h.o.GuestDisk+sha256.Size)
	if _, err := io.ReadFull(r, all); err != nil {
		return 0, "", fmt.Errorf("take disk: %w", err)
	}
	data, theirs := all[:h.o.GuestDisk], all[h.o.GuestDisk:]
	if sum := sha256.Sum256(data); string(sum[:]) != string(theirs) {
		return 0, "", errors.New("take disk: checksum differs")
	}
	return binary.BigEndian.Uint64(data), hex.EncodeToString(theirs), ctx.Err()
}

// Sending is SendDisk as a value, as agents want it.
type Sending struct {
	Host *Host
	Path string
}

// Size is how many bytes Send sends.
func (s Sending) Size() int64 { return s.Host.DiskBytes() }

// Send is SendDisk.
func (s Sending) Send(ctx context.Context, w io.Writer, sent func(n int64)) (string, error) {
	return s.Host.SendDisk(ctx, s.Path, w, sent)
}

// Close does nothing.
func (Sending) Close() error { return nil }
