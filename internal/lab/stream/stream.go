// Package stream is a download whose every byte can be checked by its place:
// each eight bytes are the big-endian offset at which they stand.
//
// Invariants:
//   - What Serve sends from an offset is what Wrong finds right from there.
package stream

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Serve answers GET ?rate=R&seconds=S&from=OFFSET with R bytes a second for S
// seconds (100000 and 10 if not said), beginning at that place of the pattern.
func Serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	rate, err1 := number(q, "rate", 100_000)
	seconds, err2 := number(q, "seconds", 10)
	from, err3 := number(q, "from", 0)
	if err1 != nil || err2 != nil || err3 != nil || rate == 0 {
		http.Error(w, "rate (bytes a second, not 0), seconds and from must be numbers", http.StatusBadRequest)
		return
	}
	rate, from = max(rate&^7, 8), from&^7
	size := rate * seconds
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	var (
		chunk = make([]byte, 32<<10)
		start = time.Now()
		sent  int64
	)
	for sent < size {
		due := min(int64(time.Since(start).Seconds()*float64(rate)), size) &^ 7
		if due <= sent {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		for sent < due {
			n := min(due-sent, int64(len(chunk)))
			for i := int64(0); i < n; i += 8 {
				binary.BigEndian.PutUint64(chunk[i:], uint64(from+sent+i))
			}
			if _, err := w.Write(chunk[:n]); err != nil {
				return
			}
			sent += n
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
	}
}

func number(q url.Values, key string, otherwise int64) (int64, error) {
	if !q.Has(key) {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(q.Get(key), 10, 64)
	if err == nil && n < 0 {
		err = fmt.Errorf("%s: %w", key, strconv.ErrRange)
	}
	return n, err
}

// Wrong counts the bytes that are not what belongs at their place, of some that
// came from offset on.
func Wrong(offset int64, b []byte) (wrong int64) {
	var word [8]byte
	for i := range b {
		at := offset + int64(i)
		if i == 0 || at&7 == 0 {
			binary.BigEndian.PutUint64(word[:], uint64(at&^7))
		}
		if b[i] != word[at&7] {
			wrong++
		}
	}
	return wrong
}
