package libvirt

import "testing"

func TestQEMUGroup(t *testing.T) {
	const caps = `<capabilities><host><secmodel><model>apparmor</model><doi>0</doi></secmodel>
<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+109</baselabel><baselabel type='qemu'>+64055:+64055</baselabel></secmodel></host></capabilities>`
	for _, c := range []struct {
		doc, domain string
		want        int
		bad         bool
	}{
		{caps, "qemu", 64055, false},
		{caps, "kvm", 109, false},
		{"<capabilities><host/></capabilities>", "qemu", 0, false},
		{"<capabilities><host><secmodel><model>dac</model><baselabel type='qemu'>+0:+0</baselabel></secmodel></host></capabilities>", "qemu", 0, false},
		{"<capabilities><host><secmodel><model>dac</model><baselabel type='qemu'>someone</baselabel></secmodel></host></capabilities>", "qemu", 0, true},
		{"<capabilities>", "qemu", 0, true},
	} {
		if got, err := qemuGroup([]byte(c.doc), c.domain); got != c.want || (err != nil) != c.bad {
			t.Errorf("%s of %.60s: %d, %v; want %d", c.domain, c.doc, got, err, c.want)
		}
	}
}
