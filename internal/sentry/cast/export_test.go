package cast

// Seal makes a datagram of any content.
func (p *Packer) Seal(content []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	return header{kind: kindShard, key: p.key, session: p.id, seq: p.seq}.seal(nil, p.aead, content)
}

// Content gives what one of the packer's datagrams has sealed.
func (p *Packer) Content(b []byte) []byte {
	h, err := parseHeader(b, kindShard)
	if err != nil {
		panic(err)
	}
	content, err := h.open(nil, p.aead, b)
	if err != nil {
		panic(err)
	}
	return content
}

// Sequence says whether a sequence number may pass, and lets it.
type Sequence struct{ w window }

func (s *Sequence) Pass(n uint64) bool {
	if !s.w.fresh(n) {
		return false
	}
	s.w.pass(n)
	return true
}

// Window is how far behind the newest number one passes for sure.
const Window = windowBits - 64

// ParseReport parses a report's content and makes it again.
func ParseReport(b []byte) ([]byte, error) {
	about, name, r, err := parseReport(b)
	if err != nil {
		return nil, err
	}
	return reportContent(about, name, r), nil
}

// ReportContent makes a report's content.
func ReportContent(name string, r Report) []byte { return reportContent(session{1, 2}, name, r) }
