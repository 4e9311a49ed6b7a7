package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"widecloud/api"
	"widecloud/internal/volume/seed"
)

// The errors that callers tell apart.
var (
	ErrNoSpace  = errors.New("no space left")         // always a *NoSpaceError
	ErrNotFound = errors.New("not in the directory")  // no such base or volume
	ErrInUse    = errors.New("in use")                // a directory that another process has open
	errQemuImg  = errors.New("qemu-img did not work") // the tool itself, not the image
)

// NoSpaceError is ErrNoSpace with its figures.
type NoSpaceError struct {
	Dir  string
	Need int64 // bytes that were wanted; of an import, all that were announced, or the next piece
	Free int64 // bytes that there are
	Kept int64 // of them, those that are kept in reserve
}

// Error gives the figures.
func (e *NoSpaceError) Error() string {
	if e.Kept > 0 {
		return fmt.Sprintf("no space left in %s: %d bytes needed, %d free, %d of them kept in reserve", e.Dir, e.Need, e.Free, min(e.Kept, e.Free))
	}
	return fmt.Sprintf("no space left in %s: %d bytes needed, %d free", e.Dir, e.Need, e.Free)
}

// Is makes errors.Is(err, ErrNoSpace) true.
func (e *NoSpaceError) Is(target error) bool { return target == ErrNoSpace }

// Digest is the SHA-256 of a base's bytes, as given by the user: sha256:HEX, 64 lower-case hexadecimal digits.
type Digest string

var digestSyntax = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// ParseDigest checks the syntax; the error names spec.digest.
func ParseDigest(s string) (Digest, error) {
	if !digestSyntax.MatchString(s) {
		return "", api.Invalidf("spec.digest", "%q is not sha256: and 64 lower-case hexadecimal digits", clip(s))
	}
	return Digest(s), nil
}

// hex is the digest's part in a file name. Only for digests that were checked.
func (d Digest) hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// Base is a base image in the directory.
type Base struct {
	Digest       Digest
	Format       Format
	Path         string // absolute; mode 0444
	Bytes        int64  // of the file
	VirtualBytes int64  // of the disk
}

// Volume is an overlay in the directory: the disk of one VM.
type Volume struct {
	ID           string
	Path         string // absolute
	Format       Format // qcow2
	Base         Digest
	BasePath     string // the backing file, absolute
	BaseFormat   Format
	VirtualBytes int64
}

// Usage is a volume and what it takes.
type Usage struct {
	Volume
	AllocatedBytes int64 // on the disk: the difference from the base, and the tables
}

// Options of a Store.
type Options struct {
	Dir             string       // absolute; made when it is not there
	Logger          *slog.Logger // nil: silent
	QemuImg         string       // the program; empty: qemu-img, from PATH
	MaxVirtualBytes int64        // largest disk of a base or volume; 0: 8 TiB
	MaxBytes        int64        // largest file of a base; 0: no limit but the disk's
	Reserve         int64        // bytes of the disk that imports and new volumes leave free for others; 0: none
}

const defaultMaxVirtual = 8 << 40

// Store is a directory of bases, overlays and seeds. It is safe for concurrent use, and the only one of its directory.
type Store struct {
	dir     string
	log     *slog.Logger
	qemuImg string
	maxVirt int64
	lock    *os.File

	maxBytes, reserve int64

	// mu is held while a name appears or goes, so that a base cannot go between the check of a Create and its rename.
	mu   sync.RWMutex
	held map[Digest]int // bases that Sweep leaves alone, and how many want it
}

// The directories of a Store. tmp holds what is not visible yet.
const (
	baseDir   = "base"
	volumeDir = "volume"
	seedDir   = "seed"
	diskDir   = "disk"
	memoryDir = "memory"
	tmpDir    = "tmp"
)

// dirSyntax leaves out what qemu-img reads into a file's name (protocols with ':', options with ',') and what a
// descriptor would have to quote.
var dirSyntax = regexp.MustCompile(`^/[A-Za-z0-9._/+@-]*$`)

// Open opens the directory, makes it where needed, and sweeps what interrupted work left. ErrInUse: another Store, of
// this process or another, has it open.
func Open(o Options) (*Store, error) {
	if !dirSyntax.MatchString(o.Dir) {
		return nil, fmt.Errorf("open volume directory %q: want an absolute path of letters, digits and ._/+@-", o.Dir)
	}
	s := &Store{dir: filepath.Clean(o.Dir), log: o.Logger, qemuImg: o.QemuImg, maxVirt: o.MaxVirtualBytes,
		maxBytes: o.MaxBytes, reserve: o.Reserve, held: map[Digest]int{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.maxVirt <= 0 {
		s.maxVirt = defaultMaxVirtual
	}
	if s.qemuImg == "" {
		s.qemuImg = "qemu-img"
	}
	var err error
	if s.qemuImg, err = exec.LookPath(s.qemuImg); err != nil {
		return nil, fmt.Errorf("open volume directory: %w", err)
	}
	// 0711: a QEMU that does not run as root must reach the files that libvirt gave it, and nobody needs to list them.
	for _, d := range []string{"", baseDir, volumeDir, seedDir, diskDir, memoryDir} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o711); err != nil {
			return nil, fmt.Errorf("make volume directory: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(s.dir, tmpDir), 0o700); err != nil {
		return nil, fmt.Errorf("make volume directory: %w", err)
	}
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("lock volume directory: %w", err)
	}
	// The lock goes with the process, however it ends; the sweep below would otherwise eat a living import.
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		s.lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, fmt.Errorf("lock volume directory %s: %w", s.dir, err)
	}
	if err := s.sweep(); err != nil {
		s.lock.Close()
		return nil, err
	}
	for _, d := range []string{filepath.Dir(s.dir), s.dir} {
		if err := syncDir(d); err != nil {
			s.lock.Close()
			return nil, err
		}
	}
	return s, nil
}

// sweep removes what interrupted work left in tmp.
func (s *Store) sweep() error {
	left, err := os.ReadDir(filepath.Join(s.dir, tmpDir))
	if err != nil {
		return fmt.Errorf("sweep volume directory: %w", err)
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(s.dir, tmpDir, e.Name())); err != nil {
			return fmt.Errorf("sweep volume directory: %w", err)
		}
		s.log.Info("removed a leftover of interrupted work", "file", e.Name())
	}
	return nil
}

// Close gives the directory free for another Store. Calls at work go on.
func (s *Store) Close() error {
	// Said, not left to the descriptor's end: a child that is being forked at this moment has a copy of it until its exec.
	unlocked := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_UN)
	return errors.Join(unlocked, s.lock.Close())
}

// Free is the number of free bytes of the disk, the reserve included.
func (s *Store) Free(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &st); err != nil {
		return 0, fmt.Errorf("read free space of %s: %w", s.dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Room is nil when there is room for need bytes beside the reserve, and else a *NoSpaceError. It reserves nothing: it is for
// refusing before the first byte what cannot end well.
func (s *Store) Room(ctx context.Context, need int64) error {
	free, err := s.Free(ctx)
	if err != nil {
		return err
	}
	if need > free-s.reserve {
		return &NoSpaceError{Dir: s.dir, Need: need, Free: free, Kept: s.reserve}
	}
	return nil
}

// Seed makes the cloud-init seed of a VM (see package seed) and returns its path, absolute. The same data again
// changes nothing; other data replace the image, which a guest that has it attached sees when it starts next.
func (s *Store) Seed(ctx context.Context, id string, d seed.Data) (string, error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	img, err := seed.Image(d)
	if err != nil {
		return "", err
	}
	path := filepath.Join(s.dir, seedDir, id+".iso")
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, img) {
		return path, nil
	}
	tmp, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "seed-")
	if err != nil {
		return "", s.full(fmt.Errorf("make seed of %s: %w", id, err), int64(len(img)))
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.Write(img); err != nil {
		return "", s.full(fmt.Errorf("make seed of %s: %w", id, err), int64(len(img)))
	}
	if err := s.publish(tmp, path, 0o400); err != nil {
		return "", s.full(fmt.Errorf("make seed of %s: %w", id, err), int64(len(img)))
	}
	return path, nil
}

// publish makes a finished temporary file visible: on the disk first, then under its name, then the name on the disk.
func (s *Store) publish(tmp *os.File, path string, mode os.FileMode) error {
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// full turns an error that comes from a full disk into a *NoSpaceError.
func (s *Store) full(err error, need int64) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	free, ferr := s.Free(context.Background())
	if ferr != nil {
		return errors.Join(err, ferr)
	}
	return &NoSpaceError{Dir: s.dir, Need: need, Free: free, Kept: s.reserve}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// idSyntax keeps an id a plain file name: no '/', no leading '.' or '-'.
var idSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

func checkID(id string) error {
	if !idSyntax.MatchString(id) {
		return api.Invalidf("id", "%q is not 1 to 64 letters, digits, '-' and '_', a letter or digit first", clip(id))
	}
	return nil
}

// clip keeps what a user gave from filling an error or a log.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

// plain makes words that are not ours fit for a user's terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			return r
		}
		return '?'
	}, clip(s))
}

// qemuImgTime is the longest that qemu-img may take for reading a header or making an empty overlay; far more than either
// needs on a busy machine.
const qemuImgTime = time.Minute

// qemu runs qemu-img and returns what it printed. The error is an *exec.ExitError's with its words when it ran and
// failed, and errQemuImg when it could not run.
func (s *Store) qemu(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, qemuImgTime)
	defer cancel()
	var out bytes.Buffer
	if err := s.qemuRun(ctx, &out, args...); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// qemuRun is qemu for as long as it takes; out is what it prints.
func (s *Store) qemuRun(ctx context.Context, out io.Writer, args ...string) error {
	var words bytes.Buffer
	cmd := exec.CommandContext(ctx, s.qemuImg, args...)
	cmd.Stdout, cmd.Stderr = out, &words
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("run qemu-img %s: %w", args[0], ctx.Err())
	}
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(words.String())
	if strings.Contains(text, syscall.ENOSPC.Error()) || strings.Contains(text, "No space left on device") {
		return fmt.Errorf("run qemu-img %s: %s: %w", args[0], text, syscall.ENOSPC)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !exit.Exited() {
		return fmt.Errorf("%w: %w: %s", errQemuImg, err, text)
	}
	return fmt.Errorf("qemu-img %s: %s", args[0], text)
}
