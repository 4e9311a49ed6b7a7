package objects

import (
	"sync"
)

// Told keeps what others were told last, by what they were told of. It is lost with the process, and then they are told again.
type Told struct {
	mu   sync.Mutex
	said map[string]string
}

// Is tells whether this was said last.
func (m *Told) Is(key, text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said[key] == text
}

// Set keeps what has been said.
func (m *Told) Set(key, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.said == nil {
		m.said = map[string]string{}
	}
	m.said[key] = text
}

// Forget forgets what was said.
func (m *Told) Forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.said, key)
}
