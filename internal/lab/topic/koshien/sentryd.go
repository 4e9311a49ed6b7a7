package koshien

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/flow"
	"widecloud/internal/lab/topic/vm"
	"widecloud/internal/lab/userdata"
)

// What the lab's parts agree on.
const (
	channel     = "live"
	webPort     = "8080" // sentryc's defaults
	receivePort = "6460"
	receiverKey = "/etc/sentryc/sentryd.key" // as user-data writes it
	directory   = "/etc/sentryd"
	admin       = "localhost:9647"
)

// Sentryd is a sender in the Internet.
type Sentryd struct {
	Name string
	From stage.Client
	To   []*vm.VM
	Rate int // stills a second
}

func parseSentryd(p *script.Parser) any {
	s := &Sentryd{Name: p.NewName("sentryd"), Rate: 1}
	p.OneOf("from")
	at := p.Peek()
	s.From = stage.From(p)
	if name := s.From.Name(); name != "inet4" && name != "inet6" {
		p.Fail(at, "%q where inet4 or inet6 is wanted", name)
	}
	if len(script.Earlier[*Sentryd](p)) > 0 {
		p.Fail(p.First(), "there is a sentryd already")
	}
	p.OneOf("to")
	s.To = parseVMs(p, s.From, "rate")
	if p.Is("rate") {
		s.Rate = p.Number("stills a second", 1, 10)
	}
	p.Declare(s.Name, s)
	return s
}

// parseVMs takes one VM or more, up to the line's end or a word.
func parseVMs(p *script.Parser, from stage.Client, until string) (l []*vm.VM) {
	for {
		w := p.Peek()
		v := script.Ref[*vm.VM](p, "vm")
		switch {
		case v.Image.Name != "koshien":
			p.Fail(w, "vm %s is of image %s, which has no sentryc", v.Name(), v.Image.Name)
		case v.UserData == "":
			p.Fail(w, "vm %s has no user-data that could configure sentryc", v.Name())
		case slices.Contains(l, v):
			p.Fail(w, "vm %s twice", v.Name())
		}
		if _, err := v.HostFor(from); err != nil {
			p.Fail(w, "%v", err)
		}
		l = append(l, v)
		if !p.More() || p.Peek().Text == until {
			return l
		}
	}
}

// hostPort is where a client reaches a port of a VM; parseVMs has seen that it can.
func hostPort(v *vm.VM, from stage.Client, port string) string {
	host, _ := v.HostFor(from)
	return net.JoinHostPort(host, port)
}

// Do implements stage.Doer.
func (d *Sentryd) Do(_ context.Context, s *stage.Stage) error {
	n := d.From.ClientNode()
	var b strings.Builder
	fmt.Fprintf(&b, "[channel.%s]\nsource = \"pattern\"\nrate = %d\nsizes = [{ width = 320, height = 180, bytes = \"10KiB\" }]\n", channel, d.Rate)
	fmt.Fprintf(&b, "[admin]\nlisten = %q\n", admin)
	for _, v := range d.To {
		key, err := keyOf(s, v)
		if err != nil {
			return err
		}
		file := filepath.Join(directory, v.Name()+".key")
		if err := writeSecret(n, file, key); err != nil {
			return err
		}
		fmt.Fprintf(&b, "[receiver.%s]\naddress = %q\nkey_file = %q\n", v.Name(), hostPort(v, d.From, receivePort), file)
	}
	conf := filepath.Join(directory, "sentryd.toml")
	if err := n.WriteFile(conf, []byte(b.String())); err != nil {
		return err
	}
	_, err := n.Start(machine.ProcessOptions{Name: "sentryd", Args: []string{stage.NodeBin + "/sentryd", "run", "-c", conf}, Ready: func(ctx context.Context) error {
		_, err := d.status(ctx)
		return err
	}})
	s.AtEnd(func() { _ = n.Stop("sentryd") })
	return err
}

// keyOf is the key that a VM's user-data gives to its sentryc.
func keyOf(s *stage.Stage, v *vm.VM) (string, error) {
	b, err := os.ReadFile(filepath.Join(s.Dir, v.UserData))
	if err != nil {
		return "", err
	}
	files, err := userdata.Files(string(b))
	if err != nil {
		return "", fmt.Errorf("%s: %w", v.UserData, err)
	}
	for _, f := range files {
		if f.Path == receiverKey {
			return f.Content, nil
		}
	}
	return "", fmt.Errorf("%s: it has no file %s", v.UserData, receiverKey)
}

func writeSecret(n *machine.Node, path, text string) error {
	// A file that is there keeps its mode, so nobody else reads it at any time.
	return errors.Join(n.WriteFile(path, nil), os.Chmod(n.Path(path), 0o600), n.WriteFile(path, []byte(text)))
}

// status is what sentryd says of its receivers.
type status struct {
	Receivers []struct {
		Name                   string // of the machine
		Destination            string
		Arrived, Missing, Lost uint64
	}
}

func (d *Sentryd) status(ctx context.Context) (st status, err error) {
	text, err := flow.Request(ctx, d.From.ClientNode(), http.MethodGet, "http://"+admin+"/status")
	if err == nil {
		err = json.Unmarshal([]byte(text), &st)
	}
	return st, err
}

// Report is a figure of what a VM's sentryc reports to sentryd.
type Report struct {
	Name, What string
	Of         *Sentryd
	VM         *vm.VM
}

func parseReport(p *script.Parser) any {
	r := &Report{Name: stage.NewFigure(p)}
	p.OneOf("sentryd")
	r.Of = script.Ref[*Sentryd](p, "sentryd")
	r.What = p.OneOf("lost", "missing")
	w := p.Peek()
	if r.VM = script.Ref[*vm.VM](p, "vm"); !slices.Contains(r.Of.To, r.VM) {
		p.Fail(w, "sentryd %s does not send to %s", r.Of.Name, r.VM.Name())
	}
	return r
}

// Do implements stage.Doer.
func (r *Report) Do(ctx context.Context, s *stage.Stage) error {
	st, err := r.Of.status(ctx)
	if err != nil {
		return err
	}
	for _, x := range st.Receivers {
		if x.Destination != r.VM.Name() {
			continue
		}
		out := stage.Figure{Name: r.Name, Value: float64(x.Lost), Unit: "stills"}
		if r.What == "missing" {
			out.Value, out.Unit = 100*float64(x.Missing)/float64(max(x.Missing+x.Arrived, 1)), "%"
		}
		s.Figure(out)
		s.Out.Under("%s", out)
		return nil
	}
	return fmt.Errorf("vm %s has reported nothing", r.VM.Name())
}
