package cast

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"
)

// Report is what a receiver tells a sender, of its present session and of all stills since the receiver began.
type Report struct {
	Arrived   uint64 // datagrams of the session
	Missing   uint64 // datagrams of the session that were sent and are not there
	Stills    uint64 // delivered
	Recovered uint64 // of these, with the help of parity
	Lost      uint64 // stills
	Delay     time.Duration
	// The rest is of all senders together.
	Late, Stale, Replayed, Forged, Evicted uint64
}

// reportContent is a report's content: the session that it is about, the receiver's name, and the numbers.
func reportContent(about session, name string, r Report) []byte {
	b := append(about.bytes(), byte(len(name)))
	b = append(b, name...)
	b, err := binary.Append(b, binary.BigEndian, r)
	if err != nil {
		panic(err) // for types of no fixed size
	}
	return b
}

func parseReport(b []byte) (about session, name string, r Report, err error) {
	size := binary.Size(r)
	if len(b) < 17 || len(b) != 17+int(b[16])+size || b[16] > maxName {
		return about, "", r, fmt.Errorf("a report of %d bytes is too short or too long", len(b))
	}
	about = session{epoch: binary.BigEndian.Uint64(b), random: binary.BigEndian.Uint64(b[8:])}
	name = string(b[17 : 17+int(b[16])])
	return about, name, r, binary.Read(bytes.NewReader(b[len(b)-size:]), binary.BigEndian, &r)
}

// outgoing is a sealed report and its way.
type outgoing struct {
	to    path
	bytes []byte
}

// compose makes the reports that are due: for each sender that was heard since the last one, or has a connection.
func (r *Receiver) compose() (out []outgoing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.senders {
		if s.aead == nil || s.heard.Equal(s.told) && !s.back.reliable() {
			continue
		}
		s.told = s.heard
		n := &r.stats.Datagrams
		content := reportContent(s.id, r.o.Name, Report{Arrived: s.got, Missing: s.missing(), Stills: s.tally.Stills, Recovered: s.tally.Recovered,
			Lost: s.tally.Lost, Delay: s.tally.Delay, Late: n[Late], Stale: n[Stale], Replayed: n[Replayed], Forged: n[Forged], Evicted: r.stats.Evicted})
		r.reports++
		h := header{kind: kindReport, key: s.key.id, session: r.id, seq: r.reports}
		out = append(out, outgoing{s.back, h.seal(nil, s.key.cipher(r.id, kindReport), content)})
	}
	return out
}
