package server

import (
	"context"
	"fmt"
	"strings"

	"widecloud/internal/lab/machine"
)

const (
	snmpConfig = "/etc/snmp/snmpd.conf"
	sysName    = "1.3.6.1.2.1.1.5.0" // SNMPv2-MIB::sysName.0
)

func init() {
	daemons["snmpd"] = &daemon{
		doc: "an SNMP agent; community `public`, read only", programs: []string{"snmpd", "snmpget"},
		prepare: func(_ context.Context, s *Server) error {
			return s.Node().WriteFile(snmpConfig, []byte("agentaddress udp:161,udp6:161\nrocommunity public\nrocommunity6 public\nsysname "+s.name+"\n"))
		},
		processes: func(*Server) []machine.ProcessOptions {
			return []machine.ProcessOptions{{Name: "snmpd", Args: []string{"/usr/sbin/snmpd", "-f", "-Lo", "-C", "-c", snmpConfig}}}
		},
		check: snmpCheck,
	}
}

// snmpCheck gets the agent's name over IPv6 and over IPv4.
func snmpCheck(ctx context.Context, s *Server) (string, error) {
	for _, at := range []string{fmt.Sprintf("udp6:[%s]:161", s.addr6()), fmt.Sprintf("udp:%s:161", s.addr4())} {
		name, err := s.client(ctx, "snmpget", "-v2c", "-c", "public", "-t", "1", "-r", "1", "-O", "qv", at, sysName)
		if err != nil {
			return "", err
		}
		if name = strings.Trim(name, `"`); name != s.name {
			return "", fmt.Errorf("%s says that it is %q", at, name)
		}
	}
	return "sysName is " + s.name, nil
}
