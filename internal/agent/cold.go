package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
	"widecloud/internal/wire"
)

// A stopped VM moves by the steps of a live migration, without the hypervisor: its disks are read here and written there. One
// stream has them all: a line that names them, the disks one after the other (package volume), and as the target's answer a
// line with their digests, once all of them are on its disk.

// coldChannel is the stream's name in its header.
const coldChannel = "stopped"

// Export is a disk that is being read, to be sent elsewhere; volume.Export is the real one.
type Export interface {
	// Size is how many bytes the disk has beside its base.
	Size() int64
	// Send writes the disk as Volumes.Fill reads it, and returns what tells whether that is the same. sent is called with the bytes
	// of each piece.
	Send(ctx context.Context, w io.Writer, sent func(n int64)) (digest string, err error)
	Close() error
}

// diskList is the first line of the stream, and the target's answer.
type diskList struct {
	Disks   []string `json:"disks,omitempty"`   // hyper.Disk.Target
	Digests []string `json:"digests,omitempty"` // of each, and of the memory behind them
	// Memory is that of a hibernated VM, which follows the disks.
	Memory *memoryHead `json:"memory,omitempty"`
}

// memoryHead is what the target has to know of a VM's saved memory before it comes.
type memoryHead struct {
	Offer []byte `json:"offer"` // hyper.Driver.ReadSaved's
	Bytes int64  `json:"bytes"`
}

// maxDiskList bounds the lines, in bytes.
const maxDiskList = 64 << 10

// cold tells whether the migration that a copy is part of is a stopped VM's.
func (r *record) cold() bool {
	return r.Job != "" && (r.Order.Run == wire.RunOff || r.Order.Run == wire.RunHard || r.Order.Run == wire.RunHibernated)
}

// still refuses a VM of which there is a domain, whatever its record says.
func (a *Agent) still(ctx context.Context, vm string) error {
	domains, err := a.domains(ctx)
	if err != nil {
		return err
	}
	if d, here := domains[vm]; here {
		return api.Errorf(api.CodeConflict, "VM %s is %s here: it is moved as a stopped one once it has stopped", vm, d.State)
	}
	return nil
}

// work lets stop end the copying of a stopped VM's disks, at either end, until done is called.
func (a *Agent) work(ctx context.Context, v *vm) (working context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	v.copying = cancel
	return ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		v.copying = nil
		cancel(nil)
	}
}

// stopCopying ends the copying of a stopped VM's disks for a job, if it is at work here in a role.
func (a *Agent) stopCopying(vm, job string, as role, why error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v := a.vms[vm]; v != nil && v.copying != nil && v.record.Job == job && v.record.Role == as {
		v.copying(why)
	}
}

// copied counts what has been sent of a stopped VM's disks, in bytes.
type copied struct{ done, total atomic.Int64 }

// sendDisks is Perform for a stopped VM. v.busy is held.
func (a *Agent) sendDisks(ctx context.Context, v *vm, c wire.PerformCall, dial func(context.Context, hyper.Channel) (net.Conn, error)) ([]byte, error) {
	ctx, done := a.work(ctx, v)
	defer done()
	a.mu.Lock()
	order, saved, count := v.record.Order, v.record.Saved, v.progress.cold
	a.mu.Unlock()
	if saved != nil { // the machine of its memory, whatever was ordered since
		order = saved.Order
	}
	memory, err := a.openMemory(ctx, v.uid, saved)
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	disks, err := a.disks(ctx, order)
	if err != nil {
		return nil, err
	}
	exports := make([]Export, len(disks))
	for i, d := range disks {
		if exports[i], err = a.o.Volumes.Export(ctx, d); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Target, err)
		}
		defer exports[i].Close()
		count.total.Add(exports[i].Size())
	}
	if memory.head != nil {
		count.total.Add(memory.head.Bytes)
		exports = append(exports, memory)
	}
	conn, err := dial(ctx, coldChannel)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer cutWith(ctx, conn)()
	digests, err := sendAll(ctx, conn, diskList{Disks: targets(disks), Memory: memory.head}, exports, paced(ctx, c.Bandwidth, &count.done))
	if err == nil && ctx.Err() != nil {
		err = ctx.Err() // a cancel that comes after the last byte still wins
	}
	if err != nil {
		err = because(ctx, err)
		abort(conn, err)
		return nil, err
	}
	return []byte(strings.Join(digests, ",")), nil
}

// sendAll writes the stream of a stopped VM, and hears that the target has what was sent.
func sendAll(ctx context.Context, conn net.Conn, list diskList, exports []Export, sent func(int64)) ([]string, error) {
	if err := writeLine(conn, list); err != nil {
		return nil, err
	}
	var digests []string
	for _, e := range exports {
		digest, err := e.Send(ctx, conn, sent)
		if err != nil {
			return nil, err
		}
		digests = append(digests, digest)
	}
	if err := endWriting(conn); err != nil {
		return nil, err
	}
	var theirs diskList
	if err := readLine(bufio.NewReaderSize(conn, maxDiskList), &theirs); err != nil {
		return nil, fmt.Errorf("hear from the target: %w", err)
	}
	if !slices.Equal(theirs.Digests, digests) {
		return nil, fmt.Errorf("the target has %.200q, and what was sent is %q", theirs.Digests, digests)
	}
	return digests, nil
}

func targets(disks []hyper.Disk) (out []string) {
	for _, d := range disks {
		out = append(out, d.Target)
	}
	return out
}

// paced counts what was sent, and waits as long as a limit (bytes a second, 0: none) asks for.
func paced(ctx context.Context, limit int64, done *atomic.Int64) func(n int64) {
	began := time.Now()
	return func(n int64) {
		all := done.Add(n)
		if limit <= 0 {
			return
		}
		wait := time.NewTimer(time.Duration(float64(all)/float64(limit)*float64(time.Second)) - time.Since(began))
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
	}
}

// receiveDisks is the target's end of a stopped VM's stream.
func (a *Agent) receiveDisks(ctx context.Context, h wire.ChannelHeader, stream *wire.Stream) error {
	v, unlock, err := a.claim(ctx, h.VM, func(r *record) error {
		if !r.cold() {
			return api.Errorf(api.CodeConflict, "migration %s of VM %s is not a stopped VM's", h.Job, h.VM)
		}
		return ownedBy(r, h.Job, target)
	})
	if err != nil {
		return err
	}
	defer unlock()
	ctx, done := a.work(ctx, v)
	defer done()
	codec, err := wire.PickCodec(codecs, h.Codec)
	if err != nil {
		return err
	}
	a.mu.Lock()
	order := v.record.Order
	a.mu.Unlock()
	disks, err := a.disks(ctx, order)
	if err != nil {
		return refusal(err)
	}
	if err := a.keepCopied(ctx, h, "", nil); err != nil {
		return err
	}
	if err := stream.Accept(); err != nil {
		return err
	}
	conn, err := codec.Wrap(stream)
	if err != nil {
		return err
	}
	defer cutWith(ctx, conn)()
	digests, memory, err := a.fill(ctx, order, disks, bufio.NewReaderSize(conn, maxDiskList))
	if err == nil {
		err = a.keepCopied(ctx, h, strings.Join(digests, ","), memory)
	}
	if err == nil {
		err = writeLine(conn, diskList{Digests: digests})
	}
	if err != nil {
		err = refusal(because(ctx, err))
		abort(conn, err)
		return err
	}
	return endWriting(conn)
}

// fill writes the disks that come by a stream, which ends with the last one.
func (a *Agent) fill(ctx context.Context, order wire.VMOrder, disks []hyper.Disk, in *bufio.Reader) (digests []string, memory *saved, err error) {
	var list diskList
	if err := readLine(in, &list); err != nil {
		return nil, nil, err
	}
	if want := targets(disks); !slices.Equal(list.Disks, want) {
		return nil, nil, api.Invalidf("disks", "the source sends %.80q, and the VM has %q", list.Disks, want)
	}
	if err := judgeMemory(order, list.Memory); err != nil {
		return nil, nil, err
	}
	for _, d := range disks {
		digest, err := a.o.Volumes.Fill(ctx, d, in)
		if err != nil {
			return nil, nil, fmt.Errorf("disk %s: %w", d.Target, err)
		}
		digests = append(digests, digest)
	}
	if list.Memory != nil {
		digest, err := a.fillMemory(ctx, order, list.Memory, in)
		if err != nil {
			return nil, nil, err
		}
		digests = append(digests, digest)
	}
	if _, err := in.ReadByte(); err == nil {
		return nil, nil, api.Invalidf("disks", "more comes after the last disk")
	} else if !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	if list.Memory == nil {
		return digests, nil, nil
	}
	seal, err := a.o.Volumes.KeepMemory(ctx, order.VM)
	return digests, &saved{Order: order, Seal: seal}, err
}

// keepCopied keeps in the target's record which content of the disks is here, "": none that is whole, and the memory that belongs to them.
func (a *Agent) keepCopied(ctx context.Context, h wire.ChannelHeader, digests string, memory *saved) error {
	_, err := a.remember(ctx, h.VM, func(r *record) error {
		if err := ownedBy(r, h.Job, target); !errors.Is(err, errUnchangedOwned) {
			return err
		}
		r.Copied, r.Saved = digests, memory
		return nil
	})
	return err
}

// cutWith tears a connection when ctx ends, so that nothing hangs on a peer that does not move; undo ends that.
func cutWith(ctx context.Context, conn net.Conn) (undo func() bool) {
	return context.AfterFunc(ctx, func() { abort(conn, context.Cause(ctx)) })
}

// abort closes a connection with the reason, if it can carry one.
func abort(conn net.Conn, why error) {
	if c, ok := conn.(interface{ CloseWithError(error) error }); ok {
		c.CloseWithError(refusal(why))
		return
	}
	conn.Close()
}

// because is why ctx ended, if that has made an error, and otherwise the error.
func because(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	why := context.Cause(ctx)
	if errors.Is(why, context.Canceled) || errors.Is(why, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", hyper.ErrCancelled, why)
	}
	return why
}

// endWriting sends the end of what was written. Reading goes on.
func endWriting(conn net.Conn) error {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

func writeLine(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

func readLine(r *bufio.Reader, v any) error {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return api.Invalidf("disks", "the line has more than %d bytes", maxDiskList)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return api.Invalidf("disks", "the line is not a list of disks: %v", err)
	}
	return nil
}
