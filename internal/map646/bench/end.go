package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"time"
)

// Ports of the server; the client has the UDP sink, too.
const (
	portStream = 5001
	portUDP    = 5003 // counts
	portEcho   = 5004
	portWeb    = 8080
)

// order is a line of JSON on the standard input of an end; an answer on its
// standard output is what came of it. An end does one thing at a time.
type order struct {
	Op string `json:"op"` // listen, connect, accept, push, pull, hangup, udp, count, pingpong

	To      netip.AddrPort `json:"to"`
	Seconds float64        `json:"seconds"` // how long; pingpong: how long to wait for each echo

	Streams int `json:"streams,omitempty"`

	Size  int `json:"size,omitempty"`  // bytes of payload
	Rate  int `json:"rate,omitempty"`  // packets a second
	Burst int `json:"burst,omitempty"` // packets at a time
	// CatchUp sends what could not be sent in time later.
	CatchUp bool `json:"catch_up,omitempty"`
	// Spread addresses from First on take the place of To's (Sources: of the
	// sender's), one chosen anew for each packet.
	Spread  int        `json:"spread,omitempty"`
	First   netip.Addr `json:"first"`
	Sources bool       `json:"sources,omitempty"`

	Packets int `json:"packets,omitempty"`
}

type answer struct {
	Error   string  `json:"error,omitempty"`
	Bytes   uint64  `json:"bytes,omitempty"`
	Packets uint64  `json:"packets,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	// P10 and P50 are round trip times in microseconds.
	P10 float64 `json:"p10,omitempty"`
	P50 float64 `json:"p50,omitempty"`
}

// runEnd obeys orders until there are no more.
func runEnd(cpu int) error {
	// A loop that waits in the kernel without telling the runtime would hold up a
	// collection for ever. There is little garbage.
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(16)
	if err := bindCPU(cpu); err != nil {
		return err
	}
	var e end
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return err
		}
		a, err := e.do(o)
		if err != nil {
			a.Error = fmt.Sprintf("%s: %v", o.Op, err)
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return in.Err()
}

// runWeb serves a page until its standard input ends.
func runWeb(cpu int) error {
	if err := bindCPU(cpu); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- serveWeb() }()
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		done <- err
	}()
	return <-done
}

type end struct {
	sinks    []*udpSink
	listener *net.TCPListener
	streams  []stream
}

func (e *end) do(o order) (answer, error) {
	switch o.Op {
	case "listen":
		return answer{}, e.listen()
	case "connect":
		return answer{}, e.connect(o)
	case "accept":
		return answer{}, e.accept(o)
	case "push", "pull":
		return e.slice(o)
	case "hangup":
		e.hangUp()
		return answer{}, nil
	case "udp":
		return sendUDP(o)
	case "count":
		var a answer
		for _, s := range e.sinks {
			a.Packets += s.packets.Swap(0)
		}
		return a, nil
	case "pingpong":
		return pingPong(o)
	}
	return answer{}, errors.New("no such order")
}

func (e *end) listen() error {
	var err error
	if e.listener, err = listen(portStream); err != nil {
		return err
	}
	for _, family := range []int{syscall.AF_INET, syscall.AF_INET6} {
		s, err := newUDPSink(family)
		if err != nil {
			return err
		}
		e.sinks = append(e.sinks, s)
		if err := echoUDP(family); err != nil {
			return err
		}
	}
	return nil
}

// percentile sorts values and returns the one that a share q of them does not
// exceed (0: the least), between neighbours as much as is due. NaN of none.
func percentile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	at := q * float64(len(v)-1)
	i := int(at)
	if i+1 >= len(v) {
		return v[len(v)-1]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}

func since(t time.Time) float64 { return time.Since(t).Seconds() }
