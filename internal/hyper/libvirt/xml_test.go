package libvirt

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/hyper"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The documents are compared as a whole: every element in them was put there, or left out, for a reason.
func TestGolden(t *testing.T) {
	d := &Driver{o: Options{Dir: "/run/widecloud/hyper", Emulator: "/usr/bin/qemu-system-x86_64", CPUModel: "Nehalem"}}
	for name, c := range map[string]struct {
		spec    hyper.Spec
		machine string
		accel   Accel
	}{
		"plain": {
			spec: hyper.Spec{VM: "6ba7b810-9dad-41d1-80b4-00c04fd430c8", Name: "web1", Epoch: 7, Hardware: api.Hardware{CPUs: 2, MemoryMiB: 512},
				Disks: []hyper.Disk{
					{Target: "vda", Path: "/var/lib/widecloud/volumes/web1.qcow2", Format: "qcow2", Base: "/var/lib/widecloud/bases/ab.raw", BaseFormat: "raw"},
					{Target: "vdb", Path: "/var/lib/widecloud/seeds/web1.iso", Format: "raw", ReadOnly: true},
				},
				NICs: []hyper.NIC{{Bridge: "br-blue", MAC: "02:57:43:01:02:03", MTU: 1430}},
			},
			machine: "pc", accel: TCG,
		},
		"incoming": {
			spec: hyper.Spec{VM: "6ba7b810-9dad-41d1-80b4-00c04fd430c8", Name: `<a> & "b"`, Epoch: 8, Hardware: api.Hardware{CPUs: 1, MemoryMiB: 128, CPUModel: "SandyBridge"},
				Disks: []hyper.Disk{{Target: "vda", Path: "/v/it's & <here>.raw", Format: "raw"}},
				NICs:  []hyper.NIC{{Bridge: "br-a", MAC: "02:57:43:01:02:03"}, {Bridge: "br-b", MAC: "02:57:43:01:02:04", MTU: 9000}},
			},
			machine: "pc-i440fx-7.2", accel: KVM,
		},
		"display": {
			spec: hyper.Spec{VM: "6ba7b810-9dad-41d1-80b4-00c04fd430c8", Name: "web1", Epoch: 7, Hardware: api.Hardware{CPUs: 2, MemoryMiB: 512, Profile: 2},
				Disks: []hyper.Disk{
					{Target: "vda", Path: "/var/lib/widecloud/volumes/web1.qcow2", Format: "qcow2", Base: "/var/lib/widecloud/bases/ab.raw", BaseFormat: "raw"},
					{Target: "vdb", Path: "/var/lib/widecloud/seeds/web1.iso", Format: "raw", ReadOnly: true},
				},
				NICs: []hyper.NIC{{Bridge: "br-blue", MAC: "02:57:43:01:02:03", MTU: 1430}},
			},
			machine: "q35", accel: TCG,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := d.render(c.spec, c.machine, c.accel)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".xml")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
			// What is written is read back.
			v, err := parseLive(got)
			if err != nil {
				t.Fatal(err)
			}
			if v.Meta.Name != c.spec.Name || v.Meta.Epoch != c.spec.Epoch || v.OS.Type.Machine != c.machine ||
				v.console() != "/run/widecloud/hyper/"+c.spec.VM+".console" || len(v.Disks) != len(c.spec.Disks) ||
				v.Disks[0].Source.File != c.spec.Disks[0].Path {
				t.Errorf("read back: %+v", v)
			}
		})
	}
}

func TestOfferRefused(t *testing.T) {
	d := &Driver{o: Options{CPUModel: "Nehalem"}}
	s := hyper.Spec{VM: "6ba7b810-9dad-41d1-80b4-00c04fd430c8", Hardware: api.Hardware{CPUs: 1, MemoryMiB: 128},
		Disks: []hyper.Disk{{Target: "vda"}, {Target: "vdb", ReadOnly: true}}, NICs: []hyper.NIC{{MAC: "02:57:43:01:02:03", MTU: 1430}}}
	good := offer{Version: 1, VM: s.VM, Type: "qemu", Machine: "pc-i440fx-7.2", CPUModel: "Nehalem", CPUs: 1, MemoryMiB: 128,
		Disks: []string{"vda"}, NICs: []offerNIC{{"02:57:43:01:02:03", 1430}}}
	if err := d.fits(good, s, TCG); err != nil {
		t.Fatal(err)
	}
	bad := good
	bad.Machine, bad.CPUModel, bad.CPUs, bad.MemoryMiB, bad.Disks, bad.NICs = "x' y='", "Skylake", 2, 64, nil, nil
	want := `offer: virtualisation is qemu at the source, kvm here; machine type "x' y='" is not one of hardware profile 1; ` +
		`cpu model is Skylake at the source, Nehalem here; number of cpus is 2 at the source, 1 here; ` +
		`memory in MiB is 64 at the source, 128 here; list of disks is [] at the source, [vda] here; ` +
		`list of nics is [] at the source, [{02:57:43:01:02:03 1430}] here`
	if diff := cmp.Diff(want, d.fits(bad, s, KVM).Error()); diff != "" {
		t.Error(diff) // all reasons at once
	}
}
