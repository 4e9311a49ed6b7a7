package wire

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	logPeriod = time.Minute
	logEach   = 5       // lines per source and period
	logTotal  = 60      // lines of all sources per period
	maxLogged = 1 << 10 // octets of an error's text: it may repeat what the other end sent
)

// sparseLog is for lines that others can cause: they must not be able to fill a disk with them. It writes logEach lines
// per source and logTotal lines in all, and at the end of each period how many it has left out.
type sparseLog struct {
	log *slog.Logger

	mu      sync.Mutex
	end     *time.Timer // of the period; nil: no period has begun
	written int
	by      map[string]int // lines written, by source
	left    int            // lines left out
}

func newSparseLog(log *slog.Logger) *sparseLog { return &sparseLog{log: log, by: map[string]int{}} }

// line writes a line that a source has caused, if it has lines left.
func (l *sparseLog) line(level slog.Level, source, message string, args ...any) {
	if l.take(source) {
		l.log.Log(context.Background(), level, message, args...)
	}
}

func (l *sparseLog) take(source string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end == nil {
		l.end = time.AfterFunc(logPeriod, l.flush)
	}
	if l.written >= logTotal || l.by[source] >= logEach {
		l.left++
		return false
	}
	l.written++
	l.by[source]++
	return true
}

// flush ends the period and tells what was left out.
func (l *sparseLog) flush() {
	l.mu.Lock()
	left := l.left
	if l.end != nil {
		l.end.Stop()
	}
	l.end, l.written, l.left = nil, 0, 0
	clear(l.by)
	l.mu.Unlock()
	if left > 0 {
		l.log.Warn("more lines about connections were left out", "lines", left)
	}
}

// brief cuts an error's text to what a log line may hold.
func brief(err error) string {
	text := err.Error()
	if len(text) > maxLogged {
		return text[:maxLogged] + "..."
	}
	return text
}
