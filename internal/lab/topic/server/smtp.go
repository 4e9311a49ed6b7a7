package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/smtp"
	"time"

	"widecloud/internal/lab/machine"
)

const (
	smtpConfig = "/etc/smtpd-lab.conf"
	smtpTo     = "check@lab.example"
)

func init() {
	daemons["smtp"] = &daemon{
		doc:      "OpenSMTPD, which takes mail for everybody and puts it under `" + keeps + "/mail`, a directory each",
		programs: []string{"smtpd"},
		prepare: func(ctx context.Context, s *Server) error {
			if _, err := s.run(ctx, "install", "-d", "-m", "700", "-o", "mail", keeps+"/mail"); err != nil {
				return err
			}
			return s.Node().WriteFile(smtpConfig, []byte("table all { \"@\" = \"mail\" }\nlisten on 0.0.0.0\nlisten on ::\n"+
				"action \"keep\" maildir \""+keeps+"/mail/%{rcpt}\" virtual <all>\nmatch from any for any action \"keep\"\n"))
		},
		processes: func(*Server) []machine.ProcessOptions {
			return []machine.ProcessOptions{{Name: "smtpd", Args: []string{"/usr/sbin/smtpd", "-d", "-f", smtpConfig}}}
		},
		check: smtpCheck,
	}
}

// smtpCheck says hello and is told that a recipient is taken. It sends nothing.
func smtpCheck(ctx context.Context, s *Server) (string, error) {
	for _, a := range []netip.Addr{s.addr6(), s.addr4()} {
		if err := s.smtpHello(ctx, a); err != nil {
			return "", fmt.Errorf("SMTP with %s: %w", a, err)
		}
	}
	return "it takes mail for " + smtpTo, nil
}

func (s *Server) smtpHello(ctx context.Context, a netip.Addr) error {
	var conn net.Conn
	err := s.at.ClientNode().Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", netip.AddrPortFrom(a, 25).String())
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return err
		}
	}
	c, err := smtp.NewClient(conn, s.name)
	if err != nil {
		return err
	}
	return errors.Join(c.Hello("user.lab.example"), c.Mail("lab@lab.example"), c.Rcpt(smtpTo), c.Quit())
}
