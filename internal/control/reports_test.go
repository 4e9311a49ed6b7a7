package control_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"widecloud/api"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// heldStore holds an Update back that writes a text, until open is closed, and counts the Updates after that.
type heldStore struct {
	store.Store
	text       string
	held, open chan struct{}
	after      []string // the keys of each
}

type heldTx struct {
	store.Tx
	s    *heldStore
	keys string
}

func (t *heldTx) Put(key string, value []byte) error {
	if t.s.text != "" && strings.Contains(string(value), t.s.text) {
		t.s.text = ""
		close(t.s.held)
		<-t.s.open
	}
	t.keys += " " + key
	return t.Tx.Put(key, value)
}

func (s *heldStore) Update(ctx context.Context, f func(store.Tx) error) (int64, error) {
	keys := ""
	rev, err := s.Store.Update(ctx, func(tx store.Tx) error {
		t := &heldTx{Tx: tx, s: s}
		defer func() { keys = t.keys }()
		return f(t)
	})
	select {
	case <-s.held:
		s.after = append(s.after, keys)
	default:
	}
	return rev, err
}

// TestReportsTogether: reports that wait for one that is being written are written together; and one of them that is refused harms
// none of the others.
func TestReportsTogether(t *testing.T) {
	for _, lie := range []bool{false, true} {
		t.Run(fmt.Sprintf("a lie among them: %v", lie), func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo"}, hosts: 6}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				tokyo.ready("2001:db8:a::/64")
				h := &heldStore{text: "the first", held: make(chan struct{}), open: make(chan struct{})}
				tokyo.startWith(func(st store.Store) store.Store { h.Store = st; return h }, nil)
				w.connected()
				answers := map[string]chan error{}
				say := func(host, text string, vtep string) {
					x := tokyo.hosts[host]
					s, err := w.session("tokyo", "tokyo."+host, x.cred, wire.Control)
					w.must(err)
					t.Cleanup(func() { s.Close() })
					r := wire.HostReport{Roles: []api.HostRole{api.RoleHypervisor}, VTEP: tokyo.hosts[vtep].vtep, Capacity: x.room, Message: text, VMs: []wire.VMReport{}, Images: []string{}}
					answer := make(chan error, 1)
					answers[host] = answer
					go func() { answer <- wire.Call(t.Context(), s, http.MethodPost, wire.PathReport, r, &wire.Empty{}) }()
				}
				for i := range 6 {
					tokyo.hosts[fmt.Sprintf("h%d", i+1)].kill() // what they would say themselves is not of interest
				}
				say("h1", "the first", "h1")
				<-h.held
				for _, host := range []string{"h2", "h3", "h4", "h5"} {
					say(host, "one of many", host)
				}
				if lie {
					say("h6", "one of many", "h1") // another host's tunnel end point
				}
				synctest.Wait()
				close(h.open)
				for host, answer := range answers {
					err := <-answer
					if host == "h6" {
						if !errors.Is(err, &api.Error{Code: api.CodeInvalid}) {
							t.Errorf("the lie: %v", err)
						}
						continue
					}
					if err != nil {
						t.Errorf("%s: %v", host, err)
					}
					if m := tokyo.host(host).Status.Message; !strings.Contains(m, "one of many") && host != "h1" {
						t.Errorf("%s says %q", host, m)
					}
				}
				together := 0
				for _, keys := range h.after {
					together = max(together, strings.Count(keys, "objects/hosts/"))
				}
				if !lie && together < 4 {
					t.Errorf("%d of 4 reports are written together:\n%s", together, strings.Join(h.after, "\n"))
				}
			})
		})
	}
}
