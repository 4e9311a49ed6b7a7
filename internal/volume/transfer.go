package volume

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"widecloud/api"
)

// A volume that no guest uses is sent to another host as what its guest would see of it and the base does not have: a stream
// of extents. No header of a file crosses, so that the receiver opens nothing but what it has made itself, and what a hostile
// sender can decide is the content of the VM's own disk.
//
//	"wcdisk1\n", size of the disk, most bytes of data that will come   (numbers of 64 bits, big endian)
//	'd', offset, length, the data                                      (length at most maxPiece)
//	'z', offset, length                                                (zeros)
//	'e', SHA-256 of all before the 'e'
//
// Offsets go up, and extents are whole clusters of 64 KiB, but for the one that ends the disk.
const (
	streamMagic = "wcdisk1\n"
	kindData    = 'd'
	kindZeros   = 'z'
	kindEnd     = 'e'
	extentHead  = 17
)

// Export is a volume that is being read, to be sent elsewhere.
type Export struct {
	Bytes int64 // that the volume has beside its base; what Send sends is that or, without its zeros, less

	f       *os.File
	h       qcow2
	virtual int64
}

// Export opens a volume by its path. That nobody writes to it, before Close, is the caller's to know. ErrNotFound: there is
// none.
func (s *Store) Export(ctx context.Context, path string) (*Export, error) {
	if err := s.owns(path); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open volume %s: %w", path, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	e := &Export{f: f}
	if err := e.count(); err != nil {
		f.Close()
		return nil, fmt.Errorf("read volume %s: %v", path, err) // %v: not a user's spec.source
	}
	return e, nil
}

func (e *Export) count() error {
	st, err := e.f.Stat()
	if err != nil {
		return err
	}
	info, h, err := inspect(e.f, st.Size(), false)
	if err != nil {
		return err
	}
	if info.Format != Qcow2 {
		return fmt.Errorf("it is %s, not qcow2", info.Format)
	}
	e.h, e.virtual = h, info.VirtualBytes
	return h.extents(e.f, e.virtual, func(x extent) error {
		if x.from != 0 {
			e.Bytes += x.length
		}
		return nil
	})
}

// Close gives the volume free.
func (e *Export) Close() error { return e.f.Close() }

// Send writes the stream, and returns the digest of it: SHA-256, in hexadecimal digits. sent is called with the bytes of each
// piece of the volume that has been read and written; they add up to Bytes.
func (e *Export) Send(ctx context.Context, w io.Writer, sent func(n int64)) (digest string, err error) {
	buffered := bufio.NewWriterSize(w, maxPiece)
	out := &sender{w: buffered, sum: sha256.New()}
	head := binary.BigEndian.AppendUint64([]byte(streamMagic), uint64(e.virtual))
	out.put(binary.BigEndian.AppendUint64(head, uint64(e.Bytes)))
	buf := make([]byte, max(maxPiece, int64(1)<<e.h.clusterBits))
	err = e.h.extents(e.f, e.virtual, func(x extent) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if x.from == 0 {
			out.extent(kindZeros, x.at, x.length)
			return out.err
		}
		p := buf[:x.length]
		n, err := readUpTo(e.f, p, x.from, e.h.size)
		if err != nil {
			return err
		}
		clear(p[n:]) // the file may end in its last cluster
		out.runs(x.at, p)
		sent(x.length)
		return out.err
	})
	if err != nil {
		return "", fmt.Errorf("send volume: %w", err)
	}
	digest = hex.EncodeToString(out.sum.Sum(nil))
	out.put(append([]byte{kindEnd}, out.sum.Sum(nil)...))
	if err := firstError(out.err, buffered.Flush()); err != nil {
		return "", fmt.Errorf("send volume: %w", err)
	}
	return digest, nil
}

// sender writes and sums up. After an error it does nothing more.
type sender struct {
	w   io.Writer
	sum hash.Hash
	err error
}

func (s *sender) put(p []byte) {
	if s.err == nil {
		s.sum.Write(p)
		_, s.err = s.w.Write(p)
	}
}

func (s *sender) extent(kind byte, at, length int64) {
	head := binary.BigEndian.AppendUint64([]byte{kind}, uint64(at))
	s.put(binary.BigEndian.AppendUint64(head, uint64(length)))
}

// runs sends data as what is zeros and what is not.
func (s *sender) runs(at int64, p []byte) {
	for len(p) > 0 {
		n, zeros := run(p)
		if zeros {
			s.extent(kindZeros, at, int64(n))
		} else {
			s.extent(kindData, at, int64(min(n, maxPiece)))
			n = min(n, maxPiece)
			s.put(p[:n])
		}
		p, at = p[n:], at+int64(n)
	}
}

// run is how far p begins with clusters that are all zeros, or none of which is.
func run(p []byte) (n int, zeros bool) {
	for n < len(p) {
		c := p[n:min(len(p), n+clusterBytes)]
		empty := bytes.Equal(c, zeroCluster[:len(c)])
		if n > 0 && empty != zeros {
			break
		}
		zeros = empty
		n += len(c)
	}
	return n, zeros
}

var zeroCluster [clusterBytes]byte

// Fill makes a volume that Create has made what Send has written, and returns the stream's digest. It reads no further than the
// stream's end. A volume that is larger than the one that was sent has zeros, or its base, behind that. It is as it was until all is there, right, and on the disk; kill -9 leaves nothing visible.
//
// Errors: those of a stream that is not one of this volume (*api.Error, invalid, field stream); ErrNoSpace; ErrNotFound when
// there is no such volume, or it has been removed meanwhile; r's.
func (s *Store) Fill(ctx context.Context, path string, r io.Reader) (digest string, err error) {
	if err := s.owns(path); err != nil {
		return "", err
	}
	info, err := s.head(path)
	if err != nil {
		return "", err
	}
	tmp, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "fill-")
	if err != nil {
		return "", s.full(fmt.Errorf("fill volume: %w", err), overlayRoom)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	in := &receiver{r: r, sum: sha256.New(), virtual: info.VirtualBytes}
	err = in.head()
	if err == nil {
		if err := s.Room(ctx, in.most+overlayRoom); err != nil {
			return "", fmt.Errorf("fill volume: %w", err)
		}
		in.b, err = newBuilder(tmp, info.VirtualBytes)
	}
	if err == nil {
		digest, err = in.extents(ctx)
	}
	if err == nil {
		err = in.b.finish(info.BackingFile, info.BackingFormat)
	}
	if err == nil {
		err = s.replace(tmp, path)
	}
	if err != nil {
		return "", s.full(fmt.Errorf("fill volume: %w", err), in.most)
	}
	s.log.Info("filled volume", "file", filepath.Base(path), "bytes", in.came)
	return digest, nil
}

// owns refuses a path that is not of a volume of this directory, or of a disk beside one.
func (s *Store) owns(path string) error {
	name, ok := strings.CutSuffix(filepath.Base(path), ".qcow2")
	want := s.volumePath(name)
	id, disk, beside := strings.Cut(name, ".")
	if beside {
		ok, want = ok && checkDisk(id, disk) == nil, s.diskPath(id, disk)
	}
	if !ok || checkID(id) != nil || path != want {
		return api.Invalidf("path", "%q is not of a volume in %s", clip(path), s.dir)
	}
	return nil
}

func (s *Store) head(path string) (Info, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return Info{}, fmt.Errorf("fill volume %s: %w", path, ErrNotFound)
	}
	if err != nil {
		return Info{}, fmt.Errorf("fill volume: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Info{}, fmt.Errorf("fill volume: %w", err)
	}
	info, err := inspectHead(f, st.Size())
	if err != nil {
		return Info{}, fmt.Errorf("fill volume %s: it is damaged (%v)", path, err)
	}
	return info, nil
}

// replace publishes a volume's new file in the place of the old one.
func (s *Store) replace(tmp *os.File, path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return ErrNotFound
	} else if err != nil {
		return err
	}
	return s.publish(tmp, path, 0o600)
}

// receiver reads a stream that a stranger may have written.
type receiver struct {
	r       io.Reader
	sum     hash.Hash
	b       *builder
	virtual int64 // of the disk, as long as the stream has not said what it had at its source
	most    int64 // bytes of data that were announced
	came    int64
	next    int64 // where the next extent may begin

	took func(came int64) // if set, is told of each piece of data
}

func badStream(format string, args ...any) error {
	return api.Invalidf("stream", format, args...)
}

func (in *receiver) read(p []byte) error {
	if _, err := io.ReadFull(in.r, p); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = badStream("it ends before its end")
		}
		return err
	}
	in.sum.Write(p)
	return nil
}

func (in *receiver) head() error {
	var p [len(streamMagic) + 16]byte
	if err := in.read(p[:]); err != nil {
		return err
	}
	size, most := binary.BigEndian.Uint64(p[len(streamMagic):]), binary.BigEndian.Uint64(p[len(streamMagic)+8:])
	switch {
	case string(p[:len(streamMagic)]) != streamMagic:
		return badStream("it does not begin as a disk's")
	case size > uint64(in.virtual):
		return badStream("it is of a disk of %d bytes, and this one has %d", size, in.virtual)
	case most > size:
		return badStream("it announces %d bytes of data, and the disk has %d", most, size)
	}
	in.virtual, in.most = int64(size), int64(most) // a disk that has become larger meanwhile ends with zeros
	return nil
}

// extents takes the extents in, to the stream's end.
func (in *receiver) extents(ctx context.Context) (digest string, err error) {
	buf := make([]byte, maxPiece)
	for {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		sum := in.sum.Sum(nil)
		var kind [1]byte
		if err := in.read(kind[:]); err != nil {
			return "", err
		}
		if kind[0] == kindEnd {
			return hex.EncodeToString(sum), in.end(sum)
		}
		at, length, err := in.place(kind[0])
		if err != nil {
			return "", err
		}
		if kind[0] == kindZeros {
			err = in.b.zeros(at, length)
		} else if err = in.read(buf[:length]); err == nil {
			err = in.b.data(at, buf[:length])
		}
		if err != nil {
			return "", err
		}
		if in.took != nil {
			in.took(in.came)
		}
	}
}

// place reads where an extent is, and judges that.
func (in *receiver) place(kind byte) (at, length int64, err error) {
	var p [extentHead - 1]byte
	if err := in.read(p[:]); err != nil {
		return 0, 0, err
	}
	a, n := binary.BigEndian.Uint64(p[:]), binary.BigEndian.Uint64(p[8:])
	switch {
	case kind != kindData && kind != kindZeros:
		return 0, 0, badStream("%q is not a kind of extent", kind)
	case a > uint64(in.virtual) || n > uint64(in.virtual)-a:
		return 0, 0, badStream("%d bytes at %d are not on the disk of %d bytes", n, a, in.virtual)
	case n == 0:
		return 0, 0, badStream("the extent at %d is empty", a)
	}
	at, length = int64(a), int64(n)
	switch {
	case at < in.next:
		return 0, 0, badStream("the extent at %d comes after one that ends at %d", at, in.next)
	case at%clusterBytes != 0 || length%clusterBytes != 0 && at+length != in.virtual:
		return 0, 0, badStream("%d bytes at %d are not whole clusters", length, at)
	case kind == kindData && length > maxPiece:
		return 0, 0, badStream("the extent at %d has %d bytes, the most is %d", at, length, maxPiece)
	case kind == kindData && length > in.most-in.came:
		return 0, 0, badStream("more data come than the %d bytes that were announced", in.most)
	}
	in.next = at + length
	if kind == kindData {
		in.came += length
	}
	return at, length, nil
}

// end reads the digest of what came before.
func (in *receiver) end(sum []byte) error {
	var theirs [sha256.Size]byte
	if err := in.read(theirs[:]); err != nil {
		return err
	}
	if !bytes.Equal(sum, theirs[:]) {
		return badStream("its digest is %x, and what came has %x", theirs, sum)
	}
	return nil
}
