package fake

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"widecloud/internal/hyper"
)

// outgoing is a migration of which this host is the source. Guarded by Host.mu but for the context.
type outgoing struct {
	id       string
	owner    *driver
	cancel   context.CancelCauseFunc // while MigratePerform is at work
	progress hyper.Progress
}

// incoming is a migration of which this host is the target.
type incoming struct {
	id      string
	owner   *driver
	ctx     context.Context
	cancel  context.CancelCauseFunc
	taken   int64 // bytes of disk
	written map[string]uint64
	whole   bool // memory is here
}

// The papers that go from end to end.
type offer struct {
	ID    string
	VM    string
	Boot  string
	Disks []string // targets that are copied
}

type answer struct {
	ID    string
	Epoch uint64
}

type result struct {
	ID    string
	Boot  string
	Epoch uint64
}

// frame is one message of a stream. The receiver answers the last one with a reply.
type frame struct {
	ID   string // the migration: a stream that reaches the wrong target is noticed
	Seq  int
	Disk string `json:",omitempty"` // target, on a Storage stream
	Data []byte `json:",omitempty"`
	Sync bool   `json:",omitempty"` // answer that all is here
	Last bool   `json:",omitempty"`
	// Of the last frame:
	Sum     []byte `json:",omitempty"` // over all data
	Boot    string `json:",omitempty"`
	Counter uint64 `json:",omitempty"`
	Resets  int    `json:",omitempty"`
}

type reply struct {
	Err     string `json:",omitempty"`
	NoSpace bool   `json:",omitempty"`
}

func paper(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs
	}
	return b
}

func (d *driver) MigrateBegin(ctx context.Context, vm string) ([]byte, error) {
	var out []byte
	err := d.call(ctx, "MigrateBegin", vm, func() error {
		m, err := d.running(vm)
		if err != nil {
			return err
		}
		if m.out != nil && m.out.cancel != nil {
			return fmt.Errorf("%w: migrates already", hyper.ErrState)
		}
		m.out = &outgoing{id: d.h.o.World.newBoot("migration of "+vm, d.h.o.Name), owner: d}
		out = paper(offer{ID: m.out.id, VM: vm, Boot: m.guest.boot, Disks: m.writable()})
		return nil
	})
	return out, err
}

func (d *driver) MigratePrepare(ctx context.Context, s hyper.Spec, data []byte) ([]byte, error) {
	var out []byte
	err := d.call(ctx, "MigratePrepare", s.VM, func() error {
		if err := s.Validate(); err != nil {
			return err
		}
		var p offer
		if err := json.Unmarshal(data, &p); err != nil {
			return fmt.Errorf("read offer: %w", err)
		}
		if p.VM != s.VM {
			return fmt.Errorf("offer is of vm %q", p.VM)
		}
		if d.h.domains[s.VM] != nil {
			return hyper.ErrExists
		}
		if err := d.canRun(s.CPUModel); err != nil {
			return err
		}
		need := int64(0)
		var copied []string
		in := &incoming{id: p.ID, owner: d, written: map[string]uint64{}}
		for _, k := range s.Disks {
			if k.ReadOnly {
				continue
			}
			if !slices.Contains(p.Disks, k.Target) {
				return fmt.Errorf("disk %s is not in the offer", k.Target)
			}
			copied = append(copied, k.Target)
			need += int64(d.h.o.GuestDisk)
			if d.h.free >= 0 && need > d.h.free {
				return fmt.Errorf("%w: %s", hyper.ErrNoSpace, k.Path)
			}
		}
		if slices.Sort(copied); !slices.Equal(copied, p.Disks) {
			return fmt.Errorf("offer: list of disks is %v at the source, %v here", p.Disks, copied)
		}
		in.ctx, in.cancel = context.WithCancelCause(context.Background())
		d.h.domains[s.VM] = &domain{spec: s, state: hyper.Incoming, in: in}
		d.h.tell(s.VM, hyper.Incoming)
		out = paper(answer{ID: p.ID, Epoch: s.Epoch})
		return nil
	})
	return out, err
}

func (d *driver) MigrateConnect(ctx context.Context, vm string, c hyper.Channel) (net.Conn, error) {
	var theirs net.Conn
	err := d.call(ctx, "MigrateConnect", vm, func() error {
		m, err := d.find(vm)
		if err != nil {
			return err
		}
		if m.in == nil {
			return fmt.Errorf("%w: %s", hyper.ErrState, m.state)
		}
		var ours net.Conn
		ours, theirs = net.Pipe()
		go func() {
			stop := context.AfterFunc(m.in.ctx, func() { ours.Close() })
			defer stop()
			defer ours.Close()
			d.h.receive(m, m.in, c, ours)
		}()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return theirs, nil
}

// receive takes one stream in, until its end.
func (h *Host) receive(m *domain, in *incoming, c hyper.Channel, conn net.Conn) {
	dec, enc, sum := json.NewDecoder(conn), json.NewEncoder(conn), sha256.New()
	for seq := 0; ; seq++ {
		var f frame
		if err := dec.Decode(&f); err != nil {
			return
		}
		r := reply{}
		switch {
		case f.ID != in.id:
			r.Err = fmt.Sprintf("stream of %q came to %q", f.ID, in.id)
		case f.Seq != seq:
			r.Err = fmt.Sprintf("frame %d came after %d", f.Seq, seq-1)
		case (c == hyper.Storage) != (f.Disk != ""):
			r.Err = "stream came to the wrong channel"
		case f.Last && string(f.Sum) != string(sum.Sum(nil)):
			r.Err = "checksum differs"
		default:
			sum.Write(f.Data)
			r = h.take(m, in, c, f)
		}
		if r.Err != "" {
			// The source may be in the middle of a write, on a pipe without a buffer: what it still sends is read and
			// dropped while the answer is on its way, until it hangs up.
			go io.Copy(io.Discard, io.MultiReader(dec.Buffered(), conn))
			if enc.Encode(r) == nil {
				<-in.ctx.Done()
			}
			return
		}
		if f.Last || f.Sync {
			if enc.Encode(r) != nil {
				return
			}
		}
	}
}

func (h *Host) take(m *domain, in *incoming, c hyper.Channel, f frame) reply {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.domains[m.spec.VM] != m || m.in != in {
		return reply{Err: "no such incoming domain"}
	}
	if c == hyper.Storage {
		i := slices.IndexFunc(m.spec.Disks, func(k hyper.Disk) bool { return k.Target == f.Disk && !k.ReadOnly })
		if i < 0 {
			return reply{Err: "no such disk " + f.Disk}
		}
		if n := int64(len(f.Data)); h.free >= 0 {
			if n > h.free {
				return reply{Err: m.spec.Disks[i].Path, NoSpace: true}
			}
			h.free -= n
			in.taken += n
		}
		if f.Last {
			in.written[m.spec.Disks[i].Path] = f.Counter
		}
		return reply{}
	}
	if f.Last {
		for _, k := range m.spec.Disks {
			if _, ok := in.written[k.Path]; !ok && !k.ReadOnly {
				return reply{Err: "disk " + k.Target + " is not whole"}
			}
		}
		m.guest = guest{boot: f.Boot, counter: f.Counter, resets: f.Resets}
		in.whole = true
	}
	return reply{}
}

func (d *driver) MigratePerform(ctx context.Context, vm string, o hyper.Outgoing) ([]byte, error) {
	var out []byte
	err := d.around(ctx, "MigratePerform", vm, func() error {
		var err error
		out, err = d.perform(ctx, vm, o)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("MigratePerform %s: %w", vm, err)
	}
	return out, nil
}

func (d *driver) perform(ctx context.Context, vm string, o hyper.Outgoing) ([]byte, error) {
	var a answer
	if err := json.Unmarshal(o.Answer, &a); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	h := d.h
	h.mu.Lock()
	m, err := d.running(vm)
	if err == nil {
		err = d.up()
	}
	if err == nil && (m.out == nil || m.out.owner != d || m.out.id != a.ID) {
		err = fmt.Errorf("%w: this migration was not begun", hyper.ErrState)
	}
	if err != nil {
		h.mu.Unlock()
		return nil, err
	}
	out := m.out
	out.cancel = cancel
	var disks []hyper.Disk
	for _, k := range m.spec.Disks {
		if !k.ReadOnly {
			disks = append(disks, k)
		}
	}
	out.progress = hyper.Progress{MemoryTotal: int64(h.o.GuestMemory), DiskTotal: int64(len(disks) * h.o.GuestDisk)}
	boot := m.guest.boot
	h.mu.Unlock()

	err = h.send(ctx, m, out, disks, o)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", hyper.ErrCancelled, err)
		}
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	out.cancel = nil
	if h.domains[vm] != m {
		return nil, errors.Join(hyper.ErrNotFound, err)
	}
	if err != nil {
		m.out = nil
		h.run(m)
		return nil, err
	}
	return paper(result{ID: out.id, Boot: boot, Epoch: a.Epoch}), nil
}

// stream is the sending end of one.
type stream struct {
	enc  *json.Encoder
	says chan reply // the target's, closed at the stream's end
	id   string
	disk string
	seq  int
	sum  []byte
}

const chunk = 4 << 10

func (h *Host) send(ctx context.Context, m *domain, out *outgoing, disks []hyper.Disk, o hyper.Outgoing) error {
	var mu sync.Mutex
	var conns []net.Conn
	over := false
	// The context's end cuts the streams, so that nothing below hangs on a peer that does not read.
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		for _, c := range conns {
			c.Close()
		}
	})
	defer func() {
		stop()
		for _, c := range conns {
			c.Close()
		}
	}()
	open := func(c hyper.Channel, disk string) (*stream, error) {
		conn, err := o.Dial(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("dial %s stream: %w", c, err)
		}
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, conn)
		if over {
			conn.Close()
		}
		s := &stream{enc: json.NewEncoder(conn), says: make(chan reply, 4), id: out.id, disk: disk}
		go s.listen(conn)
		return s, nil
	}
	bulk := func(s *stream, size int, done func(p *hyper.Progress, n int64)) error {
		sum := sha256.New()
		rng := rand.NewChaCha8(sha256.Sum256([]byte(s.id + s.disk)))
		for size > 0 {
			b := make([]byte, min(chunk, size))
			rng.Read(b)
			sum.Write(b)
			pace := h.o.ChunkTime
			if o.Bandwidth > 0 {
				pace = max(pace, time.Duration(float64(len(b))/float64(o.Bandwidth)*float64(time.Second)))
			}
			if err := sleep(ctx, pace); err != nil {
				return err
			}
			if err := s.put(frame{Data: b}); err != nil {
				return err
			}
			size -= len(b)
			h.mu.Lock()
			done(&out.progress, int64(len(b)))
			h.mu.Unlock()
		}
		s.sum = sum.Sum(nil)
		return s.ask(frame{Sync: true})
	}

	var stores []*stream
	for _, k := range disks {
		s, err := open(hyper.Storage, k.Target)
		if err != nil {
			return err
		}
		stores = append(stores, s)
		if err := bulk(s, h.o.GuestDisk, func(p *hyper.Progress, n int64) { p.DiskDone += n }); err != nil {
			return fmt.Errorf("copy disk %s: %w", k.Target, err)
		}
	}
	mem, err := open(hyper.Memory, "")
	if err != nil {
		return err
	}
	if err := bulk(mem, h.o.GuestMemory, func(p *hyper.Progress, n int64) { p.MemoryDone += n }); err != nil {
		return fmt.Errorf("copy memory: %w", err)
	}

	h.mu.Lock()
	if err := ctx.Err(); err != nil || h.domains[m.spec.VM] != m {
		h.mu.Unlock()
		return errors.Join(hyper.ErrNotFound, err)
	}
	out.progress.Switching = true
	h.halt(m, hyper.Paused)
	h.tell(m.spec.VM, hyper.Paused)
	g := m.guest
	h.mu.Unlock()
	for _, s := range stores {
		if err := s.ask(frame{Last: true, Sum: s.sum, Counter: g.counter}); err != nil {
			return fmt.Errorf("finish disk %s: %w", s.disk, err)
		}
	}
	if err := mem.ask(frame{Last: true, Sum: mem.sum, Boot: g.boot, Counter: g.counter, Resets: g.resets}); err != nil {
		return fmt.Errorf("finish memory: %w", err)
	}
	// A cancel that comes after the last byte, but before the answer, still wins: the caller was not told otherwise.
	return ctx.Err()
}

// listen reads what the target says, also while the source writes: a refusal in mid-copy must not wait for its end.
func (s *stream) listen(conn net.Conn) {
	defer close(s.says)
	dec := json.NewDecoder(conn)
	for {
		var r reply
		if dec.Decode(&r) != nil {
			return
		}
		select {
		case s.says <- r:
		default: // more than were asked for
			return
		}
	}
}

func (s *stream) put(f frame) error {
	f.ID, f.Seq, f.Disk = s.id, s.seq, s.disk
	s.seq++
	err := s.enc.Encode(f)
	select {
	case r, ok := <-s.says:
		if ok && r.Err != "" {
			return r.error()
		}
		return errors.Join(io.ErrUnexpectedEOF, err)
	default:
		return err
	}
}

func (s *stream) ask(f frame) error {
	f.ID, f.Seq, f.Disk = s.id, s.seq, s.disk
	s.seq++
	if err := s.enc.Encode(f); err != nil {
		return err
	}
	r, ok := <-s.says
	if !ok {
		return io.ErrUnexpectedEOF
	}
	return r.error()
}

func (r reply) error() error {
	switch {
	case r.NoSpace:
		return fmt.Errorf("%w: %s", hyper.ErrNoSpace, r.Err)
	case r.Err != "":
		return errors.New("target says: " + r.Err)
	}
	return nil
}

func (d *driver) MigrateFinish(ctx context.Context, vm string, data []byte, commit bool) error {
	return d.call(ctx, "MigrateFinish", vm, func() error {
		m, err := d.find(vm)
		if !commit {
			if err != nil {
				return nil
			}
			if m.in == nil {
				return fmt.Errorf("abort: %w: %s", hyper.ErrState, m.state)
			}
			d.h.remove(vm, hyper.ErrCancelled)
			return nil
		}
		var r result
		if err := json.Unmarshal(data, &r); err != nil {
			return fmt.Errorf("read result: %w", err)
		}
		if err != nil {
			return err
		}
		if m.in == nil {
			if m.state == hyper.Running && m.spec.Epoch == r.Epoch && m.came == r.ID {
				return nil // a retry: the answer was lost
			}
			return fmt.Errorf("%w: %s at epoch %d", hyper.ErrState, m.state, m.spec.Epoch)
		}
		if m.in.id != r.ID || !m.in.whole {
			// As libvirt does: an incoming domain that cannot be finished is destroyed.
			d.h.remove(vm, hyper.ErrCancelled)
			return fmt.Errorf("the memory did not come: %w", hyper.ErrNotFound)
		}
		for path, n := range m.in.written {
			d.h.disks[path] = n
		}
		in := m.in
		m.in, m.came = nil, r.ID
		d.h.run(m)
		in.cancel(nil)
		return nil
	})
}

func (d *driver) MigrateConfirm(ctx context.Context, vm string, commit bool) error {
	return d.call(ctx, "MigrateConfirm", vm, func() error {
		if !commit {
			return d.resume(vm)
		}
		m, err := d.find(vm)
		if err != nil {
			return nil
		}
		if m.state != hyper.Paused || m.out != nil && m.out.cancel != nil {
			return fmt.Errorf("%w: %s", hyper.ErrState, m.state)
		}
		d.h.remove(vm, hyper.ErrNotFound)
		return nil
	})
}

func (d *driver) MigrateProgress(ctx context.Context, vm string) (hyper.Progress, error) {
	var p hyper.Progress
	err := d.call(ctx, "MigrateProgress", vm, func() error {
		m, err := d.find(vm)
		if err != nil {
			return err
		}
		if m.out == nil {
			return fmt.Errorf("%w: does not migrate", hyper.ErrState)
		}
		p = m.out.progress
		return nil
	})
	return p, err
}

func (d *driver) MigrateCancel(ctx context.Context, vm string) error {
	return d.call(ctx, "MigrateCancel", vm, func() error {
		if m := d.h.domains[vm]; m != nil && m.out != nil && m.out.cancel != nil {
			m.out.cancel(hyper.ErrCancelled)
		}
		return nil
	})
}
