package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"
)

// Options of an image.
type Options struct {
	// Cache is where images and kernels are kept. "": the user's cache directory.
	Cache string
}

// tinyCmdline is what makes a stock kernel start fast without hardware
// virtualisation: no probing of ancient firmware, no calibration, no self-tests.
const tinyCmdline = "console=ttyS0 quiet edd=off nokaslr mitigations=off random.trust_cpu=on tsc=reliable no_timer_check " +
	"cryptomgr.notests rcupdate.rcu_expedited=1 panic=-1 rdinit=/init"

// The modules that the guest loads: at once, and when it misses its seed.
var (
	tinyModules = []string{"virtio_pci", "virtio_blk", "virtio_net", "virtio-rng", "isofs", "evdev", "button"}
	tinySecond  = []string{"ata_piix", "sr_mod"}
)

// Geometry of the disk, in bytes.
const (
	sector       = 512
	bootStart    = 1 << 20 // of the first partition
	tinyBootSize = 64 << 20
	tinyDataSize = 64 << 20
	tinyDiskSize = 256 << 20
	tinyBuilder  = "2" // counts changes of this file that change the image
)

// Tiny returns the path of a bootable qcow2 image, 256 MiB large for the
// guest and about 20 MB for us: Debian's cloud kernel, and the guest program as
// its only process. It boots from its own disk by BIOS, as any image does; the
// second partition of 64 MiB is for the guest to write. The image is kept in the
// cache under a hash of what it is made of, and made when that changes.
func Tiny(ctx context.Context, o Options) (string, error) { return makeTiny(ctx, o, "tiny", guest) }

// Koshien is Tiny with sentryc, which the guest program runs with the
// configuration that user-data writes to /etc/sentryc.
func Koshien(ctx context.Context, o Options) (string, error) {
	return makeTiny(ctx, o, "koshien", guest, program{"bin/sentryc", "sentryc", "widecloud/cmd/sentryc"})
}

// program is one of ours that an image has.
type program struct {
	path string // there
	name string // beside this program
	pkg  string // that it is built of if it is not there
}

var guest = program{"init", "lab-guest", "widecloud/internal/lab/guest"}

func makeTiny(ctx context.Context, o Options, name string, programs ...program) (string, error) {
	path, err := tinyImage(ctx, o, name, programs)
	if err != nil {
		return "", fmt.Errorf("make image %s: %w", name, err)
	}
	return path, nil
}

func tinyImage(ctx context.Context, o Options, name string, programs []program) (string, error) {
	cache, err := imageCache(o.Cache)
	if err != nil {
		return "", err
	}
	unlock, err := lockDir(cache) // one builder at a time, also among programs
	if err != nil {
		return "", err
	}
	defer unlock()
	files := map[string][]byte{}
	for _, p := range programs {
		if files[p.path], err = p.bytes(ctx, cache); err != nil {
			return "", err
		}
	}
	deb, err := kernelPackage(ctx, cache)
	if err != nil {
		return "", err
	}
	mbr, err := bootCode()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	parts := [][]byte{[]byte(filepath.Base(deb)), []byte(tinyCmdline), mbr, []byte(tinyBuilder)}
	for _, p := range programs {
		parts = append(parts, files[p.path])
	}
	for _, part := range parts {
		sum := sha256.Sum256(part)
		h.Write(sum[:])
	}
	path := filepath.Join(cache, name+"-"+hex.EncodeToString(h.Sum(nil))[:16]+".qcow2")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	tmp, err := os.MkdirTemp(cache, "build-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := buildTiny(ctx, tmp, deb, files, mbr); err != nil {
		return "", err
	}
	return path, os.Rename(filepath.Join(tmp, "disk.qcow2"), path)
}

func imageCache(dir string) (string, error) {
	if dir == "" {
		base, err := CacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(base, "images")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// lockDir takes the directory for this caller alone.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// bytes returns the program, from beside this one, or else built with the Go tool.
func (p program) bytes(ctx context.Context, cache string) ([]byte, error) {
	if self, err := os.Executable(); err == nil {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(self), p.name))
		if !errors.Is(err, fs.ErrNotExist) {
			return b, err
		}
	}
	// Trimmed and unstamped: the same source gives the same bytes.
	path := filepath.Join(cache, p.name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, p.pkg)
	cmd.Env = Environ("CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s (there is none beside this program): %w: %s", p.name, err, out)
	}
	return os.ReadFile(path)
}

// kernelPackage returns Debian's cloud kernel package, fetching it if there is
// none in the cache. It is unpacked only, never installed.
func kernelPackage(ctx context.Context, cache string) (string, error) {
	debs, err := filepath.Glob(filepath.Join(cache, "linux-image-*.deb"))
	if err != nil {
		return "", err
	}
	if len(debs) > 0 {
		return slices.Max(debs), nil
	}
	out, err := run(ctx, cache, "apt-cache", "depends", "linux-image-cloud-amd64")
	if err != nil {
		return "", err
	}
	_, name, ok := strings.Cut(string(out), "Depends: linux-image-")
	if !ok {
		return "", errors.New("apt knows no linux-image-cloud-amd64; run apt-get update")
	}
	// -o: apt's own user may not write where we are.
	if _, err := run(ctx, cache, "apt-get", "-o", "APT::Sandbox::User=root", "download", "linux-image-"+strings.Fields(name)[0]); err != nil {
		return "", err
	}
	debs, err = filepath.Glob(filepath.Join(cache, "linux-image-*.deb"))
	if err != nil || len(debs) == 0 {
		return "", fmt.Errorf("apt-get download left no package: %w", err)
	}
	return slices.Max(debs), nil
}

func buildTiny(ctx context.Context, dir, deb string, programs map[string][]byte, mbr []byte) error {
	tree := filepath.Join(dir, "tree")
	if _, err := run(ctx, dir, "dpkg-deb", "-x", deb, tree); err != nil {
		return err
	}
	kernels, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("kernels in %s: %d, want 1", filepath.Base(deb), len(kernels))
	}
	initrd, err := tinyInitrd(tree, programs)
	if err != nil {
		return err
	}
	if err := writeZstd(filepath.Join(dir, "initrd"), initrd); err != nil {
		return err
	}
	disk := filepath.Join(dir, "disk.raw")
	if err := writeMBR(disk, mbr, tinyDiskSize, tinyBootSize, tinyDataSize); err != nil {
		return err
	}
	b := bootPartition{size: tinyBootSize, cmdline: tinyCmdline, files: map[string]string{"vmlinuz": kernels[0], "initrd": filepath.Join(dir, "initrd")}}
	if err := b.write(ctx, dir, disk); err != nil {
		return err
	}
	// Not compressed: each host would unpack what is packed already, at every boot.
	_, err = run(ctx, dir, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, "disk.qcow2")
	return err
}

// writeZstd writes a file, compressed. What the boot loader reads through an emulated
// BIOS takes several times as long as the emulated kernel needs to unpack it.
func writeZstd(path string, data []byte) error {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		return err
	}
	return os.WriteFile(path, z.EncodeAll(data, nil), 0o644)
}

// bootCode is the code of the master boot record that starts the active partition.
func bootCode() ([]byte, error) {
	b, err := os.ReadFile("/usr/lib/syslinux/mbr/mbr.bin")
	if err != nil {
		return nil, fmt.Errorf("%w (Debian: syslinux-common)", err)
	}
	return b, nil
}

// bootPartition is a FAT file system with SYSLINUX, a kernel and its initrd.
type bootPartition struct {
	size    int
	cmdline string
	files   map[string]string // name there -> path here
}

// write makes the partition inside the disk's file. mtools and syslinux need no
// loop device for that.
func (p bootPartition) write(ctx context.Context, dir, disk string) error {
	config := filepath.Join(dir, "syslinux.cfg")
	if err := os.WriteFile(config, []byte("DEFAULT linux\nPROMPT 0\nTIMEOUT 0\nLABEL linux\n LINUX vmlinuz\n INITRD initrd\n APPEND "+p.cmdline+"\n"), 0o644); err != nil {
		return err
	}
	at := fmt.Sprintf("%s@@%d", disk, bootStart)
	commands := [][]string{
		{"mkfs.fat", "-F", "16", "-n", "BOOT", "-i", "57434c44", "--invariant", "--offset", fmt.Sprint(bootStart / sector), "-h", fmt.Sprint(bootStart / sector), disk, fmt.Sprint(p.size / 1024)},
		{"syslinux", "--install", "--offset", fmt.Sprint(bootStart), disk},
		{"mcopy", "-i", at, config, "::syslinux.cfg"},
	}
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		commands = append(commands, []string{"mcopy", "-i", at, p.files[name], "::" + name})
	}
	for _, args := range commands {
		if _, err := run(ctx, dir, args[0], args[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// writeMBR makes the disk's file with boot code and two partitions: one to boot
// from, one for the guest.
func writeMBR(path string, code []byte, diskSize, bootSize, secondSize int64) error {
	b := make([]byte, sector)
	copy(b[:440], code)
	entry := func(i int, active, kind byte, start, size int64) {
		e := b[446+16*i:]
		e[0], e[4] = active, kind
		copy(e[1:4], []byte{0xfe, 0xff, 0xff}) // no CHS: use LBA
		copy(e[5:8], []byte{0xfe, 0xff, 0xff})
		binary.LittleEndian.PutUint32(e[8:], uint32(start/sector))
		binary.LittleEndian.PutUint32(e[12:], uint32(size/sector))
	}
	entry(0, 0x80, 0x0e, bootStart, bootSize) // FAT16, LBA
	entry(1, 0, 0x83, bootStart+bootSize, secondSize)
	b[510], b[511] = 0x55, 0xaa
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return err
	}
	return os.Truncate(path, diskSize)
}

// tinyInitrd makes the initial root file system, uncompressed.
func tinyInitrd(tree string, programs map[string][]byte) ([]byte, error) {
	modules, err := findModules(tree)
	if err != nil {
		return nil, err
	}
	var c cpio
	for _, dir := range []string{"dev", "proc", "sys", "run", "modules", "bin"} {
		c.add(dir, 0o40755, nil)
	}
	for _, path := range slices.Sorted(maps.Keys(programs)) {
		c.add(path, 0o100755, programs[path])
	}
	first, err := modules.order(tinyModules, nil)
	if err != nil {
		return nil, err
	}
	c.add("modules/first", 0o100644, []byte(strings.Join(first, "\n")))
	second, err := modules.order(tinySecond, first)
	if err != nil {
		return nil, err
	}
	c.add("modules/second", 0o100644, []byte(strings.Join(second, "\n")))
	for _, name := range append(slices.Clone(first), second...) {
		data, err := os.ReadFile(modules[name])
		if err != nil {
			return nil, err
		}
		c.add("modules/"+name, 0o100644, data)
	}
	return c.end(), nil
}

// moduleFiles maps names (with underscores) to files.
type moduleFiles map[string]string

func findModules(tree string) (moduleFiles, error) {
	m := moduleFiles{}
	err := filepath.WalkDir(filepath.Join(tree, "lib/modules"), func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok && err == nil {
			m[moduleName(name)] = path
		}
		return err
	})
	return m, err
}

func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// order returns the modules and all that they need, each after what it needs,
// without those that are loaded already.
func (m moduleFiles) order(names, loaded []string) ([]string, error) {
	var out []string
	var visit func(string) error
	visit = func(name string) error {
		name = moduleName(name)
		if slices.Contains(out, name) || slices.Contains(loaded, name) {
			return nil
		}
		path, ok := m[name]
		if !ok {
			return fmt.Errorf("kernel package lacks module %s", name)
		}
		f, err := elf.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		section := f.Section(".modinfo")
		if section == nil {
			return fmt.Errorf("module %s lacks .modinfo", name)
		}
		info, err := section.Data()
		if err != nil {
			return err
		}
		for item := range bytes.SplitSeq(info, []byte{0}) {
			deps, ok := bytes.CutPrefix(item, []byte("depends="))
			if !ok {
				continue
			}
			for dep := range strings.FieldsFuncSeq(string(deps), func(r rune) bool { return r == ',' }) {
				if err := visit(dep); err != nil {
					return err
				}
			}
		}
		out = append(out, name)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// cpio writes the "newc" archive that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	b   bytes.Buffer
	ino int
}

func (c *cpio) add(name string, mode int, data []byte) {
	c.ino++
	fmt.Fprintf(&c.b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad()
	c.b.Write(data)
	c.pad()
}

func (c *cpio) pad() {
	for c.b.Len()%4 != 0 {
		c.b.WriteByte(0)
	}
}

func (c *cpio) end() []byte {
	c.add("TRAILER!!!", 0, nil)
	return c.b.Bytes()
}

// run runs one of Debian's tools in a directory and returns its output.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	// A killed program leaves no builder. The signal comes at the end of the thread.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.Dir = dir
	cmd.Env = Environ("LC_ALL=C", "MTOOLS_SKIP_CHECK=1")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, errOut.Bytes())
	}
	return out.Bytes(), nil
}
