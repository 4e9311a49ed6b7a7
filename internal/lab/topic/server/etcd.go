package server

import (
	"context"
	"fmt"

	"widecloud/internal/lab/machine"
)

func init() {
	daemons["etcd"] = &daemon{
		doc: "a key-value store of one member", programs: []string{"etcd", "etcdctl"},
		processes: etcdProcesses, check: etcdCheck,
	}
}

func etcdProcesses(s *Server) []machine.ProcessOptions {
	const peer = "http://[::1]:2380"
	return []machine.ProcessOptions{{Name: "etcd", Args: []string{
		"/usr/bin/etcd", "--name", s.name, "--data-dir", keeps + "/etcd",
		"--listen-client-urls", "http://[::]:2379", "--advertise-client-urls", s.etcdURL(),
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", s.name + "=" + peer,
	}}}
}

func (s *Server) etcdURL() string { return fmt.Sprintf("http://[%s]:2379", s.addr6()) }

// etcdCheck puts a key and gets it.
func etcdCheck(ctx context.Context, s *Server) (string, error) {
	const key, value = "lab/check", "it is there"
	ctl := func(args ...string) (string, error) {
		return s.client(ctx, "env", append([]string{"ETCDCTL_API=3", "etcdctl", "--endpoints", s.etcdURL(), "--command-timeout=3s"}, args...)...)
	}
	if _, err := ctl("put", key, value); err != nil {
		return "", err
	}
	got, err := ctl("get", key, "--print-value-only")
	if err == nil && got != value {
		err = fmt.Errorf("put %q, got %q", value, got)
	}
	return "a key was put and got", err
}
