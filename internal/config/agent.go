package config

import (
	"net/netip"
	"slices"
	"time"

	"widecloud/api"
)

// Agent is the configuration of a host's agent, `wcc agent`. examples/agent.toml explains every field.
type Agent struct {
	Site       string         `toml:"site"`
	Host       string         `toml:"host"`
	Controller string         `toml:"controller"` // HOST:PORT of the site's outside port
	JoinToken  string         `toml:"join_token"` // a file; needed until the host has enrolled
	DataDir    string         `toml:"data_dir"`
	Roles      []api.HostRole `toml:"roles"`
	VTEP       netip.Addr     `toml:"vtep"`
	Libvirt    AgentLibvirt   `toml:"libvirt"`
	Capacity   AgentCapacity  `toml:"capacity"`
	Map646     AgentMap646    `toml:"map646"`
	Log        Log            `toml:"log"`
}

// AgentLibvirt is a hypervisor's libvirtd.
type AgentLibvirt struct {
	Socket   string `toml:"socket"`
	Accel    string `toml:"accel"`     // auto, kvm or tcg
	StateDir string `toml:"state_dir"` // disks, seeds and sockets of VMs; empty: DataDir/vms
	Reserve  Bytes  `toml:"reserve"`   // of that disk, that new images and volumes leave free
	// KeepImages is how long a base image stays that no VM needs any more.
	KeepImages Duration `toml:"keep_images"`
}

// AgentCapacity limits what VMs get of the host. 0: all that is there.
type AgentCapacity struct {
	CPUs      int `toml:"cpus"`
	MemoryMiB int `toml:"memory_mib"`
	DiskGiB   int `toml:"disk_gib"`
}

// AgentMap646 is the translator of a gateway.
type AgentMap646 struct {
	Control string `toml:"control"` // its control socket
	Config  string `toml:"config"`  // the mappings file that the agent overwrites and map646 reads (its mappings_file)
}

// DefaultAgent is an Agent with every default.
func DefaultAgent() *Agent {
	return &Agent{
		DataDir: "/var/lib/widecloud/agent",
		Roles:   []api.HostRole{api.RoleHypervisor},
		Libvirt: AgentLibvirt{Socket: "/run/libvirt/libvirt-sock", Accel: "auto", Reserve: 1 << 30, KeepImages: Duration{24 * time.Hour}},
		Map646:  AgentMap646{Control: "/run/map646.sock", Config: "/etc/map646/mappings.conf"},
		Log:     Log{Level: "info", Format: "text"},
	}
}

// LoadAgent reads an agent's configuration.
func LoadAgent(path string) (*Agent, error) {
	a := DefaultAgent()
	if err := Load(path, a); err != nil {
		return nil, err
	}
	if a.Libvirt.StateDir == "" {
		a.Libvirt.StateDir = a.DataDir + "/vms"
	}
	return a, nil
}

// Has tells whether the host has a role.
func (a *Agent) Has(r api.HostRole) bool { return slices.Contains(a.Roles, r) }

// Check is Checker's.
func (a *Agent) Check(wrong func(field, format string, args ...any)) {
	checkLabel(wrong, "site", a.Site)
	checkLabel(wrong, "host", a.Host)
	checkHostPort(wrong, "controller", a.Controller)
	if a.JoinToken != "" {
		checkPath(wrong, "join_token", a.JoinToken)
	}
	checkPath(wrong, "data_dir", a.DataDir)
	if len(a.Roles) == 0 {
		wrong("roles", "must name at least one of %q and %q", api.RoleHypervisor, api.RoleGateway)
	}
	for i, r := range a.Roles {
		switch {
		case r != api.RoleHypervisor && r != api.RoleGateway:
			wrong("roles", "%q is neither %q nor %q", r, api.RoleHypervisor, api.RoleGateway)
		case slices.Contains(a.Roles[:i], r):
			wrong("roles", "%q is there twice", r)
		}
	}
	if !a.VTEP.IsValid() {
		wrong("vtep", "must be given: the host's IPv6 address in the underlay")
	} else {
		checkVTEP(wrong, "vtep", a.VTEP)
	}
	if a.Has(api.RoleHypervisor) {
		checkPath(wrong, "libvirt.socket", a.Libvirt.Socket)
		if !slices.Contains([]string{"auto", "kvm", "tcg"}, a.Libvirt.Accel) {
			wrong("libvirt.accel", `is %q, must be "auto", "kvm" or "tcg"`, a.Libvirt.Accel)
		}
		checkKeep(wrong, "libvirt.keep_images", a.Libvirt.KeepImages)
		if a.Libvirt.StateDir != "" {
			checkPath(wrong, "libvirt.state_dir", a.Libvirt.StateDir)
		}
	}
	for _, c := range []struct {
		field string
		value int
	}{{"capacity.cpus", a.Capacity.CPUs}, {"capacity.memory_mib", a.Capacity.MemoryMiB}, {"capacity.disk_gib", a.Capacity.DiskGiB}} {
		if c.value < 0 {
			wrong(c.field, "is %d, must not be negative", c.value)
		}
	}
	if a.Has(api.RoleGateway) {
		checkPath(wrong, "map646.control", a.Map646.Control)
		checkPath(wrong, "map646.config", a.Map646.Config)
	}
	a.Log.check(wrong)
}
