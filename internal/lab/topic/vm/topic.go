package vm

import "widecloud/internal/lab/script"

// Topic is VMs.
var Topic = script.Topic{
	Title: "VMs",
	Intro: "A PLACE is `SITE` or `SITE/HOST`.",
	Statements: []script.Entry{
		{
			Form: "image tiny|koshien|debian|blank", Part: script.Declares,
			Doc: "`tiny`: Debian's kernel with a small HTTP server as its only process; up in seconds under emulation. `koshien`: the same with `sentryc`, " +
				"which runs once its user-data has written `/etc/sentryc/sentryc.toml`. `debian`: a whole Debian with " +
				"cloud-init; minutes to make the first time, and to boot. `blank`: 1 MiB of nothing, for simulated hosts. " +
				"Imported by the sites that own VMs of it",
			Parse: parseImage,
		},
		{Form: "network NAME owner SITE prefix PREFIX [ipv4 PREFIX]", Part: script.Declares, Doc: "an IPv6 prefix of length 64 goes where its VMs go", Parse: parseNetwork},
		{
			Form: "vm NAME owner SITE network NETWORK [image IMAGE] [service ADDRESS…] [at PLACE] [cpus N] [memory SIZE] [profile N] [disk NAME SIZE]… [user-data FILE]", Part: script.Declares,
			Doc: "1 CPU and 128 MiB if not said; FILE is beside the script. `profile`: the hardware profile, the newest if not said. `disk`: one beside the root disk", Parse: parseVM,
		},
		{
			Form: "vms NAME N owner SITE network NETWORK [image IMAGE] [at PLACE] [cpus N] [memory SIZE] [profile N]", Part: script.Declares,
			Doc: "many that are alike: NAME1, NAME2, …, at most 2,000, each of which is a VM as others", Parse: parseVMs,
		},
		{Form: "migrate VM PLACE [&]", Part: script.Happens, Doc: "with progress; a check. With `&` in the background, and no check", Parse: parseMigrate},
		{
			Form: "wait job VM [copied N%|step STEP] [within TIME]", Part: script.Happens,
			Doc: "the VM's last migration: its end, or a point on the way", Parse: parseWait,
		},
		{
			Form: "cancel job VM", Part: script.Happens, Doc: "its last migration",
			Parse: func(p *script.Parser) any { return &Cancel{job(p)} },
		},
		{Form: "create image NAME of VM [disk NAME]", Part: script.Declares, Doc: "of a disk of a stopped VM, the root disk if none is named, until it is ready", Parse: parseCreateImage},
		{Form: "delete image IMAGE", Part: script.Happens, Doc: "one that was made of a VM", Parse: parseDeleteImage},
		{Form: "stop vm VM", Part: script.Happens, Doc: "as its user does", Parse: parsePower("stop")},
		{Form: "start vm VM", Part: script.Happens, Doc: "the same", Parse: parsePower("start")},
		{Form: "suspend vm VM", Part: script.Happens, Doc: "the same: it stands still", Parse: parsePower("suspend")},
		{Form: "hibernate vm VM", Part: script.Happens, Doc: "the same: its memory is saved; `start` or `resume` goes on from it", Parse: parsePower("hibernate")},
		{Form: "resume vm VM", Part: script.Happens, Doc: "the same: it goes on", Parse: parsePower("resume")},
		{Form: "reboot vm VM", Part: script.Happens, Doc: "the same", Parse: parsePower("reboot")},
		{Form: "delete vm VM", Part: script.Happens, Doc: "the same, until it is gone", Parse: parsePower("delete")},
		{Form: "write VM SIZE [disk NAME]", Part: script.Happens, Doc: "the guest writes random data to its disk, or another one of its disks, and syncs; at most 64MiB", Parse: parseWrite},
		{Form: "plug VM NAME SIZE", Part: script.Happens, Doc: "its user gives it one more disk", Parse: parseChangeDisk("plug")},
		{Form: "grow VM NAME SIZE", Part: script.Happens, Doc: "its user makes a disk larger; `root` is the one over the image", Parse: parseChangeDisk("grow")},
		{Form: "unplug VM NAME", Part: script.Happens, Doc: "its user takes a disk away", Parse: parseChangeDisk("unplug")},
		{
			Form: "volume NAME SIZE owner SITE [at PLACE]", Part: script.Declares,
			Doc: "a disk that outlives VMs, in each of which it is called NAME; made where the VM is that has it first, if no host is named", Parse: parseVolume,
		},
		{Form: "attach VOLUME VM", Part: script.Happens, Doc: "its user gives a volume to a VM, with what is on it", Parse: parseAttach},
		{Form: "detach VOLUME", Part: script.Happens, Doc: "its user takes it from its VM", Parse: parseDetach},
		{Form: "enlarge VOLUME SIZE", Part: script.Happens, Doc: "its user makes it larger, attached or not", Parse: parseEnlarge},
		{Form: "delete volume VOLUME", Part: script.Happens, Doc: "its user deletes it, until it is gone", Parse: parseDeleteVolume},
		{Form: "dirty VM SIZE rate RATE", Part: script.Happens, Doc: "the guest writes memory over and over: at most its own without 80 MiB, so 48 MiB of the usual 128", Parse: parseDirty},
		{
			Form: "expect VM running [exactly-once] [at PLACE] [as USER] [address unchanged] [within TIME]", Part: script.Checks,
			Doc: "where it runs is asked of every hypervisor's libvirtd, not of the controllers; the home controller must then say the same. " +
				"Exactly once: one running copy, and no other of any state. `as`: the user of its process on the host",
			Parse: parseRunning,
		},
		{
			Form: "expect vms NAME running [within TIME]", Part: script.Checks,
			Doc: "each of them exactly once, where its home controller says", Parse: parseManyRunning,
		},
		{Form: "expect VM stopped [at PLACE] [within TIME]", Part: script.Checks, Doc: "by the controller's word, and no hypervisor runs it", Parse: parseStopped},
		{
			Form: "expect VM suspended [at PLACE] [within TIME]", Part: script.Checks,
			Doc: "the same; one hypervisor has it, and says that it stands still", Parse: parseSuspended,
		},
		{
			Form: "expect VM hibernated [at PLACE] [within TIME]", Part: script.Checks,
			Doc: "by the controller's word, and no hypervisor has it", Parse: parseHibernated,
		},
		{
			Form: "expect VM disk [NAME] unchanged|as|is|gone [VM|SIZE] [within TIME]", Part: script.Checks,
			Doc: "`unchanged`: what was written is read back from the disk, the root disk if none is named. `as`: what another VM has written to its disk " +
				"of that name is read from this one's. `is`: the guest sees a disk of that size, " +
				"`gone`: none; and the controller shows nothing of it as pending", Parse: parseDisk,
		},
		{Form: "expect new image of VM refused [because WORD]", Part: script.Checks, Doc: "WORD is a reason's code: `power`, `release`, …", Parse: parseImageRefused},
		{Form: "expect image IMAGE at HOST there|gone [within TIME]", Part: script.Checks, Doc: "whether the host keeps the image's content as a base, by its files", Parse: parseImageAt},
		{
			Form: "expect plug VM NAME SIZE refused [because WORD]", Part: script.Checks,
			Doc: "WORD is a reason's code: `disk`, `release`, …", Parse: parseDiskRefused("plug"),
		},
		{Form: "expect grow VM NAME SIZE refused [because WORD]", Part: script.Checks, Doc: "the same", Parse: parseDiskRefused("grow")},
		{Form: "expect attach VOLUME VM refused [because WORD]", Part: script.Checks, Doc: "the same; `volume`: it is not where the VM is", Parse: parseAttachRefused},
		{
			Form: "expect volume VOLUME new|attached|detached [at PLACE] [within TIME]", Part: script.Checks,
			Doc: "by its home controller's word, and nothing of it is pending", Parse: parseVolumeIs,
		},
		{Form: "expect VM boot unchanged", Part: script.Checks, Doc: "the guest has not booted since it was first seen running", Parse: parseBoot},
		{
			Form: "expect VM display shows|none [within TIME]", Part: script.Checks,
			Doc: "`shows`: a viewer with a ticket of one use (RFC 6143 over a websocket of the home controller) sees a picture that is not all black; " +
				"the ticket opens nothing a second time. `none`: the display is refused, with the reason", Parse: parseDisplay,
		},
		{Form: "expect VM pending [within TIME]", Part: script.Checks, Doc: "it finds no place, and says why", Parse: parsePending},
		{
			Form: "expect VM addresses seen [within TIME]", Part: script.Checks,
			Doc: "the VM uses the addresses that it got by router advertisement and DHCP; its host has seen them", Parse: parseAddresses,
		},
		{
			Form: "expect VM address ipv4|ipv6 by dhcp|neighbour [within TIME]", Part: script.Checks,
			Doc: "the controller shows when the VM was last seen with the address that it was given: `dhcp`: as a lease; `neighbour`: its host has heard it", Parse: parseAddress,
		},
		{
			Form: "expect job VM done|failed|cancelled|clean [within TIME]", Part: script.Checks,
			Doc: "clean: it has ended somehow, one hypervisor knows the VM (none, if it is to be stopped), one copy is there, and no job holds it", Parse: parseExpectJob,
		},
		{
			Form: "expect migrate VM PLACE refused [because WORD]", Part: script.Checks,
			Doc: "a dry run; WORD is a reason's code: `loan`, `memory`, `cpu`, …", Parse: parseRefused,
		},
		{
			Form: "figure FIGURE seconds|wan_bytes|downtime VM", Part: script.Checks,
			Doc: "of its last migration. `wan_bytes`: what it sent between the sites", Parse: parseFigure,
		},
		{Form: "ratio FIGURE wire VM", Part: script.Checks, Doc: "`wan_bytes` by the memory and disk moved", Parse: parseFigure},
	},
}
