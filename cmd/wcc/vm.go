package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"widecloud/api"
)

var _ = present[vmGroup](api.KindVM,
	col("PHASE", func(o *api.VM) string { return string(o.Status.Phase) }),
	col("PLACE", func(o *api.VM) string { return place(o.Status.Site, o.Status.Host) }),
	col("CPUS", func(o *api.VM) string { return strconv.Itoa(o.Spec.CPUs) }),
	col("MEMORY", func(o *api.VM) string { return size(int64(o.Spec.MemoryMiB) << 20) }),
	col("ADDRESSES", func(o *api.VM) string {
		var l []string
		for _, x := range o.Status.Addresses {
			if x.Origin != api.OriginGuest {
				l = append(l, x.Address)
			}
		}
		return list(l)
	}),
	wide("IMAGE", func(o *api.VM) string { return o.Spec.Image }),
	wide("NETWORK", func(o *api.VM) string { return o.Spec.Network }),
	wide("MAC", func(o *api.VM) string { return o.Status.MAC }),
	wide("EPOCH", func(o *api.VM) string { return strconv.FormatUint(o.Status.Epoch, 10) }),
	wide("LOAN", func(o *api.VM) string { return o.Status.Loan }),
	wide("JOB", func(o *api.VM) string { return o.Status.Job }),
	wide("SINCE", func(o *api.VM) string { return stamp(o.Status.Since) }),
	wide("DISKS", func(o *api.VM) string {
		l := []string{}
		if o.Spec.DiskGiB > 0 {
			l = append(l, fmt.Sprintf("%s=%dG", api.RootDisk, o.Spec.DiskGiB))
		}
		for _, k := range o.Spec.Disks {
			l = append(l, fmt.Sprintf("%s=%dG", k.Name, k.SizeGiB))
		}
		return list(l)
	}),
	wide("PENDING", func(o *api.VM) string {
		var l []string
		for _, p := range o.Status.Pending {
			l = append(l, p.Field)
		}
		return list(l)
	}),
	wide("MESSAGE", func(o *api.VM) string { return o.Status.Message }),
)

type vmGroup struct {
	List       listCmd         `cmd:"" help:"List VMs."`
	Show       showCmd         `cmd:"" help:"Show a VM."`
	Create     vmCreateCmd     `cmd:"" help:"Make a VM."`
	Start      vmStartCmd      `cmd:"" help:"Start VMs."`
	Stop       vmStopCmd       `cmd:"" help:"Stop VMs: ask them by ACPI; --hard: pull the plug."`
	Suspend    vmSuspendCmd    `cmd:"" help:"Make VMs stand still, with their memory on their hosts, until they are resumed."`
	Hibernate  vmHibernateCmd  `cmd:"" help:"Save the memory of VMs in files, and free that of their hosts."`
	Resume     vmResumeCmd     `cmd:"" help:"Let suspended and hibernated VMs go on."`
	Reboot     vmRebootCmd     `cmd:"" help:"Reboot a VM."`
	Reset      vmResetCmd      `cmd:"" help:"Reset a VM at once, as by the reset button: reboot --hard."`
	Rename     vmRenameCmd     `cmd:"" help:"Give a VM another name; its hostname stays."`
	Resize     vmResizeCmd     `cmd:"" help:"Change CPUs and memory, from the next start on."`
	Disk       vmDiskCmd       `cmd:"" help:"Add, remove and grow the disks of a VM."`
	Migrate    vmMigrateCmd    `cmd:"" help:"Move a VM to another site or host with its disks: alive, or stopped if it is."`
	Why        vmWhyCmd        `cmd:"" help:"Say why a VM is not at a site."`
	Addresses  vmAddressesCmd  `cmd:"" help:"Show a VM's addresses: who saw it with each, and when last."`
	Usage      vmUsageCmd      `cmd:"" help:"Show what a VM has used lately: CPU, memory, disks, network."`
	Console    vmConsoleCmd    `cmd:"" help:"Attach to a VM's serial console; Ctrl-] ends it."`
	Display    vmDisplayCmd    `cmd:"" help:"Relay a VM's display to this machine, for a VNC viewer."`
	Screenshot vmScreenshotCmd `cmd:"" help:"Write what a VM's display shows to a PNG or PPM file."`
	Delete     deleteCmd       `cmd:"" help:"Delete VMs and their disks."`
	Bulk       vmBulkCmd       `cmd:"" help:"Start, stop, reboot, delete or move many VMs by one job."`
}

type vmCreateCmd struct {
	Name     string        `arg:"" help:"Its name."`
	Image    string        `required:"" help:"Image to start from." complete:"images"`
	Network  string        `required:"" help:"Network to be in." complete:"networks"`
	CPUs     int           `name:"cpus" default:"1" help:"Virtual CPUs."`
	Memory   mebibytes     `default:"512MiB" help:"Memory: 512MiB, 2GiB." placeholder:"SIZE"`
	Disk     []diskFlag    `help:"Size of the root disk: 10GiB (left out: the image's), or NAME=SIZE: a disk beside it, empty at first; may be repeated." placeholder:"[NAME=]SIZE"`
	Site     string        `help:"Where to start it: SITE or SITE/HOST. Left out: wherever there is room." placeholder:"SITE[/HOST]" complete:"sites"`
	Permit   []string      `help:"Sites where it may run; left out: any." placeholder:"SITE" complete:"sites"`
	SSHKey   []string      `name:"ssh-key" sep:"none" help:"authorized_keys line, or @FILE with such lines." placeholder:"KEY|@FILE"`
	UserData string        `help:"cloud-init user-data, or @FILE." placeholder:"TEXT|@FILE"`
	Service  []string      `help:"Public service address for it, or a pool: one of it that is free; may be repeated." placeholder:"ADDRESS|POOL" complete:"pools"`
	CPUModel string        `name:"cpu-model" help:"CPU model of the guest; left out: the site's baseline."`
	Profile  int           `help:"Hardware profile: 1 has a serial console alone, 2 a display, too. Left out: the newest that its first host makes." placeholder:"N"`
	Owner    string        `help:"Organisation that owns it; left out: the user's." complete:"owners"`
	Stopped  bool          `help:"Do not start it."`
	DryRun   bool          `help:"Write nothing: say where it would go, why not elsewhere, and what it would take of quota and loan; exit code 1 if it would be refused."`
	Wait     bool          `help:"Wait until it runs."`
	Timeout  time.Duration `default:"10m" help:"How long --wait waits."`
	labelled
	format
}

func (c *vmCreateCmd) Run(a *app) error {
	labels, err := c.labels()
	if err != nil {
		return err
	}
	v := &api.VM{Meta: api.Meta{Name: c.Name, Owner: c.Owner, Labels: labels}, Spec: api.VMSpec{
		Hardware: api.Hardware{CPUs: c.CPUs, MemoryMiB: int(c.Memory), CPUModel: c.CPUModel, Profile: c.Profile}, Image: c.Image, Network: c.Network, Power: api.PowerOn,
		Sites: c.Permit, Place: c.Site, Service: c.Service}}
	if v.Spec.DiskGiB, v.Spec.Disks, err = disksOf(c.Disk); err != nil {
		return err
	}
	if c.Stopped {
		v.Spec.Power = api.PowerOff
	}
	for _, k := range c.SSHKey {
		text, err := textOrFile("--ssh-key", k)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				v.Spec.SSHKeys = append(v.Spec.SSHKeys, line)
			}
		}
	}
	if v.Spec.UserData, err = textOrFile("--user-data", c.UserData); err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	if c.DryRun {
		return c.try(a, client, v)
	}
	if v, err = api.Create(a, client, v); err != nil {
		return err
	}
	if c.Wait && !c.Stopped {
		if v, err = waitFor(a, c.Timeout, func(a *app) (*api.VM, error) { return waitVM(a, client, c.Name, running) }); err != nil {
			return err
		}
		return c.done(a, v, "runs at "+place(v.Status.Site, v.Status.Host))
	}
	return c.done(a, v, "created")
}

// try shows what the creation would come to.
func (c *vmCreateCmd) try(a *app, client *api.Client, v *api.VM) error {
	d, err := client.DryRun(a, v)
	if err != nil {
		return err
	}
	switch c.Output {
	case "json":
		return a.out.json(d)
	case "yaml":
		return a.out.yaml(d)
	}
	return a.showDryRun(v, d)
}

func running(v *api.VM) bool { return v.Status.Phase == api.PhaseRunning }

type vmResizeCmd struct {
	Name    string    `arg:"" help:"Its name." complete:"self"`
	CPUs    int       `name:"cpus" help:"Virtual CPUs; left out: as they are."`
	Memory  mebibytes `help:"Memory: 512MiB, 2GiB; left out: as it is." placeholder:"SIZE"`
	Profile int       `help:"Hardware profile: 1 has a serial console alone, 2 a display, too. The guest finds its devices elsewhere then." placeholder:"N"`
	format
}

func (c *vmResizeCmd) Run(a *app) error {
	if c.CPUs == 0 && c.Memory == 0 && c.Profile == 0 {
		return usagef("--cpus, --memory or --profile is needed")
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	spec := map[string]int{}
	if c.CPUs != 0 {
		spec["cpus"] = c.CPUs
	}
	if c.Memory != 0 {
		spec["memory_mib"] = int(c.Memory)
	}
	if c.Profile != 0 {
		spec["profile"] = c.Profile
	}
	v, err := api.Patch[api.VM](a, client, c.Name, map[string]any{"spec": spec}, 0)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("has %d CPUs and %s of memory", v.Spec.CPUs, size(int64(v.Spec.MemoryMiB)<<20))
	for _, p := range v.Status.Pending {
		if p.Field == "cpus" || p.Field == "memory_mib" {
			what = fmt.Sprintf("is to have %d CPUs and %s of memory at its next start", v.Spec.CPUs, size(int64(v.Spec.MemoryMiB)<<20))
		}
	}
	return c.done(a, v, what)
}

type vmStartCmd struct {
	Names   []string      `arg:"" name:"name" help:"Their names." complete:"self"`
	Discard bool          `name:"discard-memory" help:"Of hibernated VMs: give up what is in their saved memory, and boot them anew."`
	Wait    bool          `help:"Wait until they run."`
	Timeout time.Duration `default:"10m" help:"How long --wait waits."`
}

func (c *vmStartCmd) Run(a *app) error {
	if c.Discard {
		if err := c.discard(a); err != nil {
			return err
		}
	}
	return setPower(a, c.Names, api.PowerOn, c.Wait, c.Timeout, running, "is being started", "runs")
}

// discard pulls the plug of VMs that do not run, which gives their memory up.
func (c *vmStartCmd) discard(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	for _, name := range c.Names {
		v, err := api.Get[api.VM](a, client, name)
		if err != nil {
			return err
		}
		switch v.Status.Phase {
		case api.PhaseHibernated, api.PhaseStarting, api.PhaseFailed, api.PhaseStopped, api.PhaseStopping:
		default:
			return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("vm %s is %s: it has no saved memory to give up", name, v.Status.Phase)}
		}
	}
	stopped := func(v *api.VM) bool { return v.Status.Phase == api.PhaseStopped }
	return setPower(a, c.Names, api.PowerOffHard, true, c.Timeout, stopped, "", "has given its memory up")
}

type vmStopCmd struct {
	Names   []string      `arg:"" name:"name" help:"Their names." complete:"self"`
	Hard    bool          `help:"At once, as by pulling the plug."`
	Wait    bool          `help:"Wait until they have stopped."`
	Timeout time.Duration `default:"10m" help:"How long --wait waits."`
}

func (c *vmStopCmd) Run(a *app) error {
	power := api.PowerOff
	if c.Hard {
		power = api.PowerOffHard
	}
	stopped := func(v *api.VM) bool { return v.Status.Phase == api.PhaseStopped }
	return setPower(a, c.Names, power, c.Wait, c.Timeout, stopped, "is being stopped", "stopped")
}

type vmSuspendCmd struct {
	Names   []string      `arg:"" name:"name" help:"Their names." complete:"self"`
	Wait    bool          `help:"Wait until they stand still."`
	Timeout time.Duration `default:"10m" help:"How long --wait waits."`
}

func (c *vmSuspendCmd) Run(a *app) error {
	suspended := func(v *api.VM) bool { return v.Status.Phase == api.PhaseSuspended }
	return setPower(a, c.Names, api.PowerSuspended, c.Wait, c.Timeout, suspended, "is being suspended", "is suspended")
}

type vmHibernateCmd struct {
	Names   []string      `arg:"" name:"name" help:"Their names." complete:"self"`
	Wait    bool          `help:"Wait until their memory is saved."`
	Timeout time.Duration `default:"10m" help:"How long --wait waits."`
}

func (c *vmHibernateCmd) Run(a *app) error {
	hibernated := func(v *api.VM) bool { return v.Status.Phase == api.PhaseHibernated }
	return setPower(a, c.Names, api.PowerHibernated, c.Wait, c.Timeout, hibernated, "is being hibernated", "is hibernated")
}

type vmResumeCmd struct {
	Names   []string      `arg:"" name:"name" help:"Their names." complete:"self"`
	Wait    bool          `help:"Wait until they run."`
	Timeout time.Duration `default:"10m" help:"How long --wait waits."`
}

// Run resumes no VM that has nothing to go on with: to boot it is another wish.
func (c *vmResumeCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	for _, name := range c.Names {
		v, err := api.Get[api.VM](a, client, name)
		if err != nil {
			return err
		}
		if !rests(v) || v.Status.Phase == api.PhaseStopped {
			why := fmt.Sprintf("vm %s is not suspended or hibernated, but %s; wcc vm start %s boots it", name, v.Status.Phase, name)
			if v.Status.Message != "" {
				why += " (" + v.Status.Message + ")"
			}
			return &api.Error{Code: api.CodeConflict, Message: why}
		}
	}
	return setPower(a, c.Names, api.PowerOn, c.Wait, c.Timeout, running, "is being resumed", "runs")
}

// rests tells whether a VM is to go on from its memory later.
func rests(v *api.VM) bool {
	return v.Spec.Power == api.PowerSuspended || v.Spec.Power == api.PowerHibernated
}

func setPower(a *app, names []string, power api.Power, wait bool, timeout time.Duration, ok func(*api.VM) bool, asked, did string) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := api.Patch[api.VM](a, client, name, specOf("power", power), 0); err != nil {
			return fmt.Errorf("vm %s: %w", name, err)
		}
		what := asked
		if wait {
			if _, err := waitFor(a, timeout, func(a *app) (*api.VM, error) { return waitVM(a, client, name, ok) }); err != nil {
				return err
			}
			what = did
		}
		if err := a.out.printf("vm %s %s\n", name, what); err != nil {
			return err
		}
	}
	return nil
}

type vmRebootCmd struct {
	Name string `arg:"" help:"Its name." complete:"self"`
	Hard bool   `help:"At once, as by the reset button."`
}

func (c *vmRebootCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	if err := client.Reboot(a, c.Name, c.Hard); err != nil {
		return err
	}
	return a.out.printf("vm %s reboots\n", c.Name)
}

type vmResetCmd struct {
	Name string `arg:"" help:"Its name." complete:"self"`
}

func (c *vmResetCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	if err := client.Reboot(a, c.Name, true); err != nil {
		return err
	}
	return a.out.printf("vm %s is reset\n", c.Name)
}

type vmRenameCmd struct {
	Name string `arg:"" help:"Its name." complete:"self"`
	New  string `arg:"" help:"The new one."`
}

func (c *vmRenameCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	v, err := client.Rename(a, c.Name, c.New)
	if err != nil {
		return err
	}
	return a.out.printf("vm %s is called %s now; its guest and its network still know it as %s\n", c.Name, v.Name, api.HostnameOf(v))
}

type vmMigrateCmd struct {
	Name    string        `arg:"" help:"Its name." complete:"self"`
	Target  string        `arg:"" help:"SITE or SITE/HOST." complete:"sites"`
	DryRun  bool          `help:"Only say whether it would be accepted: exit code 1 and all reasons if not."`
	Wait    bool          `help:"Show the progress and wait for the end."`
	Timeout time.Duration `default:"0" help:"How long --wait waits; 0: for ever. The migration goes on after it."`
	format
}

func (c *vmMigrateCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	if c.DryRun {
		reasons, err := client.MigrateDryRun(a, c.Name, c.Target)
		if err != nil {
			return err
		}
		if len(reasons) > 0 {
			return &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("vm %s could not migrate to %s", c.Name, c.Target), Reasons: reasons}
		}
		return a.out.printf("vm %s can migrate to %s\n", c.Name, c.Target)
	}
	job, err := client.Migrate(a, c.Name, c.Target)
	if err != nil {
		return err
	}
	if !c.Wait {
		return c.done(a, job, fmt.Sprintf("started: vm %s migrates to %s", c.Name, c.Target))
	}
	if job, err = waitFor(a, c.Timeout, func(a *app) (*api.Job, error) { return waitJob(a, client, job.Name) }); err != nil {
		return err
	}
	if c.Output != "" {
		return c.done(a, job, "")
	}
	return a.summary(job)
}

type vmWhyCmd struct {
	Name string `arg:"" help:"Its name." complete:"self"`
	Not  string `help:"Why is it not there? SITE or SITE/HOST." placeholder:"SITE[/HOST]" complete:"sites"`
}

func (c *vmWhyCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	reasons, err := client.Why(a, c.Name, c.Not)
	if err != nil {
		return err
	}
	if len(reasons) == 0 && c.Not != "" {
		return a.out.printf("nothing keeps vm %s from %s\n", c.Name, c.Not)
	}
	a.out.reasons(reasons)
	return nil
}

// textOrFile is the text itself, or with a leading @ that of a file.
func textOrFile(flag, s string) (string, error) {
	path, ok := strings.CutPrefix(s, "@")
	if !ok {
		return s, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", usagef("%s: %w", flag, err)
	}
	return string(b), nil
}
