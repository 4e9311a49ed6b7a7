package httpd

import (
	"fmt"
	"net/http"
	"time"

	"widecloud/internal/sentry/reel"
)

// stream calls send with the newest still, and each time there is a newer one. A viewer that is slow gets fewer of them.
// It ends when the viewer goes, cannot take one within WriteTimeout, or the Server drains; then it calls end.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, req *request, kind string, send func(f *reel.Frame) error, end func()) {
	f := s.o.Reel.Newest(req.channel, req.size)
	if f == nil {
		s.notFound(w, r, req)
		return
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", cacheNever)
	h.Set("X-Accel-Buffering", "no") // nginx would keep it back otherwise
	s.counts.answered(req.what, http.StatusOK, 0)
	if r.Method == http.MethodHead {
		return
	}
	s.streams.Add(1)
	defer s.streams.Add(-1)
	c := http.NewResponseController(w)
	for f != nil {
		_ = c.SetWriteDeadline(time.Now().Add(s.o.WriteTimeout))
		if send(f) != nil || c.Flush() != nil {
			return
		}
		select {
		case <-f.Next():
			f = s.o.Reel.Newest(req.channel, req.size)
		case <-r.Context().Done():
			return
		case <-s.draining:
			end()
			return
		}
	}
}

// live is what players call MJPEG: multipart/x-mixed-replace, a part for each still.
func (s *Server) live(w http.ResponseWriter, r *http.Request, req *request) {
	const boundary = "still"
	first := true
	s.stream(w, r, req, "multipart/x-mixed-replace; boundary="+boundary, func(f *reel.Frame) error {
		if first {
			fmt.Fprintf(w, "--%s\r\n", boundary)
			first = false
		}
		p := f.Prepared.(*prepared)
		fmt.Fprintf(w, "Content-Type: image/jpeg\r\nContent-Length: %d\r\nStill: %s\r\n\r\n", len(f.JPEG), p.header["Still"][0])
		n, err := w.Write(f.JPEG)
		s.counts.bytes.Add(int64(n))
		if err != nil {
			return err
		}
		// The boundary follows at once: browsers show a part only when they have seen its end.
		_, err = fmt.Fprintf(w, "\r\n--%s\r\n", boundary)
		return err
	}, func() {})
}

// events sends the numbers of stills as Server-Sent Events. A drain event is the last one: the page goes elsewhere.
func (s *Server) events(w http.ResponseWriter, r *http.Request, req *request) {
	s.stream(w, r, req, "text/event-stream", func(f *reel.Frame) error {
		_, err := fmt.Fprintf(w, "id: %d\nevent: still\ndata: {\"number\":%d,\"taken\":%d,\"bytes\":%d}\n\n", f.Number, f.Number, f.Taken.UnixMilli(), len(f.JPEG))
		return err
	}, func() {
		fmt.Fprint(w, "event: drain\ndata: {}\n\n")
		_ = http.NewResponseController(w).Flush()
	})
}
