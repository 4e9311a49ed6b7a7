package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"widecloud/api"
)

// parts are the files that a book has at most.
const parts = 4

// book is a part of the log: files of JSON lines, named after their first entry.
type book struct {
	dir   string
	max   int64    // bytes of all its files
	files []part   // the oldest first; the last one is written
	out   *os.File // nil: there is none yet
	size  int64    // of the last one
	dirty bool     // not synced yet
}

// part is a file of a book. Its end does not move once another one follows.
type part struct {
	first int64 // id of its first entry
	path  string
}

const suffix = ".jsonl"

// openBook opens or makes a book, and gives the id of its newest entry.
func openBook(dir string, most int64) (*book, int64, error) {
	b := &book{dir: dir, max: most}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, 0, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		name, ours := strings.CutSuffix(e.Name(), suffix)
		if first, err := strconv.ParseInt(name, 10, 64); ours && err == nil {
			b.files = append(b.files, part{first, filepath.Join(dir, e.Name())})
		}
	}
	slices.SortFunc(b.files, func(a, b part) int { return cmp.Compare(a.first, b.first) })
	if len(b.files) == 0 {
		return b, 0, nil
	}
	last := b.files[len(b.files)-1]
	if b.out, err = os.OpenFile(last.path, os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		return nil, 0, err
	}
	text, err := os.ReadFile(last.path)
	if err != nil {
		return nil, 0, err
	}
	if b.size = int64(len(text)); b.size > 0 && text[b.size-1] != '\n' { // a line was cut off: the next one begins anew
		if _, err := b.out.Write([]byte("\n")); err != nil {
			return nil, 0, err
		}
		b.size++
	}
	newest := last.first
	for e := range backwards(text) {
		newest = e.ID
		break
	}
	return b, newest, nil
}

// add writes an entry.
func (b *book) add(e api.AuditEntry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if b.out == nil || b.size > 0 && b.size+int64(len(line)) > b.max/parts {
		if err := b.turn(e.ID); err != nil {
			return err
		}
	}
	n, err := b.out.Write(line)
	if b.size += int64(n); err != nil {
		if n > 0 { // a full disk took half of it: the next one begins anew
			if terr := b.out.Truncate(b.size - int64(n)); terr == nil {
				b.size -= int64(n)
			}
		}
		return err
	}
	b.dirty = true
	return nil
}

// turn begins a new file, and removes the oldest ones when there are too many.
func (b *book) turn(first int64) error {
	path := filepath.Join(b.dir, fmt.Sprintf("%016d%s", first, suffix))
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if b.out != nil {
		_ = b.out.Sync()
		_ = b.out.Close()
	}
	b.out, b.size = out, 0
	b.files = append(b.files, part{first, path})
	for len(b.files) > parts {
		if err := b.dropOldest(); err != nil {
			return err
		}
	}
	return nil
}

func (b *book) dropOldest() error {
	if err := os.Remove(b.files[0].path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b.files = b.files[1:]
	return nil
}

// expire removes the files that have nothing newer than a time. The one that is written stays.
func (b *book) expire(before time.Time) error {
	for len(b.files) > 1 {
		info, err := os.Stat(b.files[0].path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && !info.ModTime().Before(before) {
			return nil
		}
		if err := b.dropOldest(); err != nil {
			return err
		}
	}
	return nil
}

// newestFirst gives the entries of files that are older than the one of an id, the newest first. A file that is gone meanwhile has none.
func newestFirst(files []part, before int64) iter.Seq[api.AuditEntry] {
	return func(yield func(api.AuditEntry) bool) {
		for _, p := range slices.Backward(files) {
			if before != 0 && p.first >= before {
				continue
			}
			text, err := os.ReadFile(p.path)
			if err != nil {
				continue
			}
			for e := range backwards(text) {
				if (before == 0 || e.ID < before) && !yield(e) {
					return
				}
			}
		}
	}
}

// backwards gives the entries of a file's text, the last first. What is no entry is left out.
func backwards(text []byte) iter.Seq[api.AuditEntry] {
	return func(yield func(api.AuditEntry) bool) {
		for len(text) > 0 {
			text = bytes.TrimSuffix(text, []byte("\n"))
			at := bytes.LastIndexByte(text, '\n') + 1
			line := text[at:]
			text = text[:at]
			var e api.AuditEntry
			if json.Unmarshal(line, &e) != nil || e.ID <= 0 {
				continue
			}
			if !yield(e) {
				return
			}
		}
	}
}
