package libvirt

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"widecloud/internal/hyper"
)

const (
	namePrefix = "wc-"
	metaNS     = "urn:widecloud:domain:1"
)

var domainTemplate = template.Must(template.New("domain").Funcs(template.FuncMap{
	"x": func(s string) (string, error) {
		var b strings.Builder
		err := xml.EscapeText(&b, []byte(s))
		return b.String(), err
	},
}).Parse(`<domain type='{{.Virt}}'{{if .OddKiB}} xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'{{end}}>
  <name>{{.Name}}</name>
  <uuid>{{.Spec.VM}}</uuid>
  <metadata>
    <widecloud:domain xmlns:widecloud='{{.NS}}'>
      <widecloud:name>{{x .Spec.Name}}</widecloud:name>
      <widecloud:epoch>{{.Spec.Epoch}}</widecloud:epoch>
    </widecloud:domain>
  </metadata>
  <memory unit='MiB'>{{.Spec.MemoryMiB}}</memory>
  <vcpu placement='static'>{{.Spec.CPUs}}</vcpu>
  <os>
    <type arch='x86_64' machine='{{.Machine}}'>hvm</type>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='forbid'>{{.Model}}</model>
  </cpu>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <pm>
    <suspend-to-mem enabled='no'/>
    <suspend-to-disk enabled='no'/>
  </pm>
  <devices>
    <emulator>{{x .Emulator}}</emulator>
{{- range .Disks}}
{{template "disk" .}}
{{- end}}
{{- range .NICs}}
    <interface type='bridge'>
      <mac address='{{.MAC}}'/>
      <source bridge='{{x .Bridge}}'/>
      <model type='virtio'/>
{{- if .MTU}}
      <mtu size='{{.MTU}}'/>
{{- end}}
      <rom enabled='no'/>
      {{.At}}
    </interface>
{{- end}}
    <serial type='unix'>
      <source mode='bind' path='{{x .Console}}'/>
      <target port='0'/>
    </serial>
    <console type='unix'>
      <source mode='bind' path='{{x .Console}}'/>
      <target type='serial' port='0'/>
    </console>
{{- with .Profile.Display}}
    <controller type='pci' index='0' model='pcie-root'/>
{{- range $.Profile.Ports}}
    <controller type='pci' index='{{.Bus}}' model='pcie-root-port'>
      <target chassis='{{.Bus}}' port='{{printf "0x%x" .Bus}}'/>
      {{.At}}
    </controller>
{{- end}}
    <controller type='sata' index='0'>
      {{.SATA}}
    </controller>
    <controller type='usb' index='0' model='qemu-xhci' ports='4'>
      {{.USB}}
    </controller>
    <input type='tablet' bus='usb'>
      <address type='usb' bus='0' port='1'/>
    </input>
    <graphics type='vnc'>
      <listen type='socket' socket='{{x $.Screen}}'/>
    </graphics>
    <video>
      <model type='vga' vram='16384' heads='1' primary='yes'/>
      {{.Video}}
    </video>
{{- else}}
    <controller type='usb' model='none'/>
{{- end}}
    <memballoon model='none'/>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
      {{.Profile.RNG}}
    </rng>
  </devices>
{{- if .OddKiB}}
  <qemu:commandline>
    <qemu:arg value='-object'/>
    <qemu:arg value='memory-backend-ram,id=wc.ram,size={{.OddKiB}}K'/>
    <qemu:arg value='-machine'/>
    <qemu:arg value='memory-backend=wc.ram'/>
    <qemu:arg value='-m'/>
    <qemu:arg value='size={{.OddKiB}}K'/>
  </qemu:commandline>
{{- end}}
</domain>
{{define "disk"}}    <disk type='file' device='disk'>
      <driver name='qemu' type='{{.Format}}' discard='unmap'/>
      <source file='{{x .Path}}'/>
{{- if .Base}}
      <backingStore type='file'>
        <format type='{{.BaseFormat}}'/>
        <source file='{{x .Base}}'/>
        <backingStore/>
      </backingStore>
{{- else}}
      <backingStore/>
{{- end}}
      <target dev='{{.Target}}' bus='virtio'/>
{{- if .ReadOnly}}
      <readonly/>
{{- end}}
{{- if .Serial}}
      <serial>{{.Serial}}</serial>
{{- end}}
{{- if .Boot}}
      <boot order='{{.Boot}}'/>
{{- end}}
      {{.At}}
    </disk>
{{- end}}`))

type domainData struct {
	Spec                                            hyper.Spec
	Virt, Name, NS, Machine, Model, Console, Screen string
	Emulator                                        string
	Profile                                         *profile
	OddKiB                                          int64 // see oddKiB; 0: the size that the spec says
	Disks                                           []diskData
	NICs                                            []nicData
}

type diskData struct {
	hyper.Disk
	At   pci
	Boot int
}

type nicData struct {
	hyper.NIC
	At pci
}

// oddKiB is the memory of a guest under TCG, in KiB: 8 more than asked for. QEMU before 9.0 loses pages in a live migration
// from a TCG host: where it collects the dirty bits of a block of memory by whole words, it forgets to tell the TLBs, and
// what the guest writes by an entry that was dirty before is never sent (mended by QEMU commit 03bfc2188f07, "physmem: Fix
// migration dirty bitmap coherency with TCG memory access"). A block that is no multiple of 64 pages goes the other way,
// page by page, which is right. libvirt only knows whole MiB, hence the arguments of its own; both ends get the same.
func oddKiB(mib int) int64 { return int64(mib)*1024 + 8 }

func virtType(a Accel) string {
	if a == KVM {
		return "kvm"
	}
	return "qemu"
}

// render makes libvirt's document of a spec.
func (d *Driver) render(s hyper.Spec, machine string, accel Accel) (string, error) {
	p := profileOf(s.Profile)
	if len(s.NICs) > len(p.nics) {
		return "", fmt.Errorf("spec: more than %d nics", len(p.nics))
	}
	v := domainData{
		Spec: s, Virt: virtType(accel), Name: namePrefix + s.VM, NS: metaNS, Machine: machine, Model: s.CPUModel,
		Console: filepath.Join(d.o.Dir, s.VM+".console"), Screen: d.screen(s.VM), Emulator: d.o.Emulator, Profile: p,
	}
	if v.Model == "" {
		v.Model = d.o.CPUModel
	}
	if accel == TCG {
		v.OddKiB = oddKiB(s.MemoryMiB)
	}
	for i, k := range s.Disks {
		data, err := p.disk(k)
		if err != nil {
			return "", fmt.Errorf("spec.disks[%d]: %w", i, err)
		}
		if i == 0 {
			data.Boot = 1
		}
		v.Disks = append(v.Disks, data)
	}
	for i, n := range s.NICs {
		v.NICs = append(v.NICs, nicData{NIC: n, At: p.nics[i]})
	}
	var b bytes.Buffer
	if err := domainTemplate.Execute(&b, v); err != nil {
		return "", fmt.Errorf("make domain document: %w", err)
	}
	return b.String(), nil
}

// disk is what is written of a disk: where it is follows from its target.
func (p *profile) disk(k hyper.Disk) (diskData, error) {
	data := diskData{Disk: k}
	at := int(k.Target[2] - 'a') // hyper.Spec.Validate has seen to it
	switch {
	case k.ReadOnly && p.seed != (pci{}):
		data.Target, data.At = seedTarget, p.seed
	case at >= len(p.disks):
		return data, fmt.Errorf("target: %s is beyond the %d disks of the hardware profile", k.Target, len(p.disks))
	default:
		data.At = p.disks[at]
	}
	if k.Base != "" && k.BaseFormat == "" {
		f, err := baseFormat(k.Base)
		if err != nil {
			return data, fmt.Errorf("base: %w", err)
		}
		data.BaseFormat = f
	}
	return data, nil
}

// baseFormat looks at a base image. A raw image that pretends to be qcow2 gains nothing by it: the document ends the chain of
// backing files below the base, whatever its header names.
func baseFormat(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil {
		return "", err
	}
	if string(magic[:]) == "QFI\xfb" {
		return "qcow2", nil
	}
	return "raw", nil
}

// live is what is read of a domain's document.
type live struct {
	Type   string `xml:"type,attr"`
	UUID   string `xml:"uuid"`
	Memory struct {
		KiB int64 `xml:",chardata"`
	} `xml:"memory"`
	VCPU int `xml:"vcpu"`
	OS   struct {
		Type struct {
			Machine string `xml:"machine,attr"`
		} `xml:"type"`
	} `xml:"os"`
	CPU struct {
		Model string `xml:"model"`
	} `xml:"cpu"`
	Meta struct {
		Name  string `xml:"urn:widecloud:domain:1 name"`
		Epoch uint64 `xml:"urn:widecloud:domain:1 epoch"`
	} `xml:"metadata>domain"`
	Disks []struct {
		Source struct {
			File string `xml:"file,attr"`
		} `xml:"source"`
		Target struct {
			Dev string `xml:"dev,attr"`
		} `xml:"target"`
		Driver struct {
			Type string `xml:"type,attr"`
		} `xml:"driver"`
		ReadOnly *struct{} `xml:"readonly"`
	} `xml:"devices>disk"`
	NICs []struct {
		MAC struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		MTU struct {
			Size int `xml:"size,attr"`
		} `xml:"mtu"`
	} `xml:"devices>interface"`
	Serial []struct {
		Source struct {
			Path string `xml:"path,attr"`
		} `xml:"source"`
	} `xml:"devices>serial"`
	Graphics []struct {
		Listen struct {
			Socket string `xml:"socket,attr"`
		} `xml:"listen"`
	} `xml:"devices>graphics"`
}

func parseLive(doc string) (live, error) {
	var v live
	if err := xml.Unmarshal([]byte(doc), &v); err != nil {
		return live{}, fmt.Errorf("parse domain document: %w", err)
	}
	return v, nil
}

// writable are the targets of the disks that the guest writes to, sorted.
func (v live) writable() (targets []string) {
	for _, k := range v.Disks {
		if k.ReadOnly == nil {
			targets = append(targets, k.Target.Dev)
		}
	}
	slices.Sort(targets)
	return targets
}

func (v live) console() string {
	if len(v.Serial) == 0 {
		return ""
	}
	return v.Serial[0].Source.Path
}

// display is the socket of the display; empty: there is none.
func (v live) display() string {
	if len(v.Graphics) == 0 {
		return ""
	}
	return v.Graphics[0].Listen.Socket
}
