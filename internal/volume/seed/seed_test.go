package seed_test

import (
	"bytes"
	"errors"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/volume/seed"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	key     = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f alice@example.net"
	keyRich = `from="2001:db8::/32",command="echo \"hi\"" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f 渋谷 😀`
)

func data() seed.Data {
	return seed.Data{
		UID:      "3f0c8a52-6b1e-4a6e-9d0c-2f6f0a1b2c3d",
		Hostname: "web1.tokyo.example",
		NICs: []seed.NIC{{MAC: "52:54:00:AB:CD:EF", DHCP4: true, MTU: 1430,
			Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::5054:ff:feab:cdef/64")}}},
	}
}

func TestGolden(t *testing.T) {
	for name, change := range map[string]func(*seed.Data){
		"plain":         func(*seed.Data) {},
		"keys":          func(d *seed.Data) { d.SSHKeys = []string{key, keyRich} },
		"userdata":      func(d *seed.Data) { d.UserData = "#!/bin/sh\necho hello\n" },
		"userdata-keys": func(d *seed.Data) { d.UserData = "#cloud-config\npackages: [nginx]\n"; d.SSHKeys = []string{key} },
		"ipv6-only":     func(d *seed.Data) { d.NICs = []seed.NIC{{MAC: "52:54:00:00:00:01"}} },
		"two-cards": func(d *seed.Data) {
			d.NICs = append(d.NICs, seed.NIC{MAC: "52:54:00:00:00:02", DHCP4: true, MTU: 1280})
		},
		"no-cards": func(d *seed.Data) { d.NICs = nil },
	} {
		t.Run(name, func(t *testing.T) {
			d := data()
			change(&d)
			f, err := seed.Make(d)
			if err != nil {
				t.Fatal(err)
			}
			got := "-- user-data --\n" + string(f.UserData) + "-- meta-data --\n" + string(f.MetaData) + "-- network-config --\n" + string(f.NetworkConfig)
			path := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// found is what isoinfo (of genisoimage) reads in an image by its names of one kind: -R Rock Ridge, -J Joliet.
func found(t *testing.T, image []byte, names string) seed.Files {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seed.iso")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := exec.Command("isoinfo", names, "-x", "/"+name, "-i", path).Output()
		if err != nil {
			t.Errorf("isoinfo %s: %v", names, err)
		}
		return b
	}
	return seed.Files{UserData: read("user-data"), MetaData: read("meta-data"), NetworkConfig: read("network-config")}
}

func TestImage(t *testing.T) {
	d := data()
	d.SSHKeys = []string{key}
	for name, userData := range map[string]string{
		"short":        "#!/bin/sh\n",
		"none":         "",
		"one sector":   strings.Repeat("x", 2048),
		"over it":      strings.Repeat("x", 2049),
		"any bytes":    "\x00\xff\n---\n\"'\r\n\x1a" + strings.Repeat("\x00", 5000),
		"the most":     strings.Repeat("0123456789abcdef", seed.MaxUserData/16),
		"looks like a": "CD001\x01",
	} {
		t.Run(name, func(t *testing.T) {
			d := d
			d.UserData = userData
			want, err := seed.Make(d)
			if err != nil {
				t.Fatal(err)
			}
			image, err := seed.Image(d)
			if err != nil {
				t.Fatal(err)
			}
			again, err := seed.Image(d)
			if err != nil || !bytes.Equal(image, again) {
				t.Errorf("made twice, it differs (%v)", err)
			}
			if len(image)%2048 != 0 {
				t.Errorf("%d bytes are no whole number of sectors", len(image))
			}
			for _, names := range []string{"-R", "-J"} {
				if diff := cmp.Diff(want, found(t, image, names)); diff != "" {
					t.Errorf("read with %s (-want +got):\n%s", names, diff)
				}
			}
		})
	}
}

// The label is how cloud-init finds the seed: by blkid, and by nothing else.
func TestLabel(t *testing.T) {
	image, err := seed.Image(data())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seed.iso")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("blkid", "-p", "-o", "export", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\nLABEL=cidata\n") || !strings.Contains(string(out), "\nTYPE=iso9660\n") {
		t.Errorf("blkid: %v\n%s", err, out)
	}
	// A reader by other people, which complains of what the kernel overlooks.
	out, err = exec.Command("isoinfo", "-d", "-i", path).CombinedOutput()
	for _, want := range []string{"Volume id: cidata", "Joliet with UCS level 3 found", "Rock Ridge signatures version 1 found"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("isoinfo says no %q: %v\n%s", want, err, out)
		}
	}
	for _, how := range [][]string{{"-R"}, {"-J"}} {
		out, err = exec.Command("isoinfo", append(how, "-f", "-i", path)...).Output()
		if want := "/meta-data\n/network-config\n/user-data\n"; err != nil || string(out) != want {
			t.Errorf("isoinfo %v: %v\n%s", how, err, out)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*seed.Data)
		field  string
	}{
		"uid empty":             {func(d *seed.Data) { d.UID = "" }, "uid"},
		"uid with newline":      {func(d *seed.Data) { d.UID = "a\nruncmd: [x]" }, "uid"},
		"uid ends with newline": {func(d *seed.Data) { d.UID = "a\n" }, "uid"},
		"hostname empty":        {func(d *seed.Data) { d.Hostname = "" }, "hostname"},
		"hostname with newline": {func(d *seed.Data) { d.Hostname = "a\nb" }, "hostname"},
		"hostname with quote":   {func(d *seed.Data) { d.Hostname = `a"b` }, "hostname"},
		"hostname with path":    {func(d *seed.Data) { d.Hostname = "../a" }, "hostname"},
		"hostname with capital": {func(d *seed.Data) { d.Hostname = "Web1" }, "hostname"},
		"hostname with dash":    {func(d *seed.Data) { d.Hostname = "web1-" }, "hostname"},
		"hostname label long":   {func(d *seed.Data) { d.Hostname = strings.Repeat("a", 64) }, "hostname"},
		"hostname long":         {func(d *seed.Data) { d.Hostname = strings.Repeat("a.", 127) + "a" }, "hostname"},
		"user-data long":        {func(d *seed.Data) { d.UserData = strings.Repeat("a", seed.MaxUserData+1) }, "spec.user_data"},
		"key empty":             {func(d *seed.Data) { d.SSHKeys = []string{key, ""} }, "spec.ssh_keys[1]"},
		"key a comment":         {func(d *seed.Data) { d.SSHKeys = []string{"# " + key} }, "spec.ssh_keys[0]"},
		"key of two lines":      {func(d *seed.Data) { d.SSHKeys = []string{key + "\n" + key} }, "spec.ssh_keys[0]"},
		"key ends its line":     {func(d *seed.Data) { d.SSHKeys = []string{key + "\n"} }, "spec.ssh_keys[0]"},
		"key with NEL":          {func(d *seed.Data) { d.SSHKeys = []string{key + "\u0085x"} }, "spec.ssh_keys[0]"},
		"key with LS":           {func(d *seed.Data) { d.SSHKeys = []string{key + "\u2028x"} }, "spec.ssh_keys[0]"},
		"key not UTF-8":         {func(d *seed.Data) { d.SSHKeys = []string{key + "\xff"} }, "spec.ssh_keys[0]"},
		"key a word":            {func(d *seed.Data) { d.SSHKeys = []string{"ssh-ed25519"} }, "spec.ssh_keys[0]"},
		"key of another type":   {func(d *seed.Data) { d.SSHKeys = []string{strings.Replace(key, "ssh-ed25519", "ssh-rsa", 1)} }, "spec.ssh_keys[0]"},
		"key private":           {func(d *seed.Data) { d.SSHKeys = []string{"-----BEGIN OPENSSH PRIVATE KEY-----"} }, "spec.ssh_keys[0]"},
		"key long":              {func(d *seed.Data) { d.SSHKeys = []string{key + strings.Repeat("x", 17<<10)} }, "spec.ssh_keys[0]"},
		"keys many":             {func(d *seed.Data) { d.SSHKeys = make([]string, seed.MaxKeys+1) }, "spec.ssh_keys"},
		"mac empty":             {func(d *seed.Data) { d.NICs[0].MAC = "" }, "nics[0].mac"},
		"mac long":              {func(d *seed.Data) { d.NICs[0].MAC = "02:00:5e:10:00:00:00:01" }, "nics[0].mac"},
		"mac in another form":   {func(d *seed.Data) { d.NICs[0].MAC = "5254.00ab.cdef" }, "nics[0].mac"},
		"mac twice":             {func(d *seed.Data) { d.NICs = append(d.NICs, seed.NIC{MAC: "52:54:00:ab:cd:ef"}) }, "nics[1].mac"},
		"address none":          {func(d *seed.Data) { d.NICs[0].Addresses = make([]netip.Prefix, 1) }, "nics[0].addresses[0]"},
		"mtu small":             {func(d *seed.Data) { d.NICs[0].MTU = 1279 }, "nics[0].mtu"},
		"mtu large":             {func(d *seed.Data) { d.NICs[0].MTU = 65536 }, "nics[0].mtu"},
		"cards many":            {func(d *seed.Data) { d.NICs = make([]seed.NIC, seed.MaxNICs+1) }, "nics"},
	} {
		t.Run(name, func(t *testing.T) {
			d := data()
			tc.change(&d)
			if _, err := seed.Image(d); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: tc.field}) {
				t.Errorf("error is %v, want one of field %s", err, tc.field)
			}
		})
	}
}

// skeleton is a YAML text with every quoted scalar taken out: what is left is its structure.
func skeleton(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	in := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c != '\n' && (c < 0x20 || c > 0x7e):
			t.Fatalf("byte %#x is not plain ASCII in %q", c, text)
		case in && c == '\\':
			i++
		case c == '"':
			in = !in
			b.WriteByte('"')
		case in && c == '\n':
			t.Fatalf("a scalar over the end of a line in %q", text)
		case !in:
			b.WriteByte(c)
		}
	}
	if in {
		t.Fatalf("a scalar without end in %q", text)
	}
	return b.String()
}

// FuzzMake: whatever is given is refused, or stays within its scalars and leaves the structure as it is.
func FuzzMake(f *testing.F) {
	f.Add("web1", "a", key, "#cloud-config\n")
	f.Add("a\nb", "a\": b", keyRich, "")
	f.Add("a", "a", key+` \" # : - {} [] & * ! | > % @ `, "x")
	f.Add("a", "a", key+" \x7f\ufffe\u200b\ufeff", "")
	f.Fuzz(func(t *testing.T, hostname, uid, sshKey, userData string) {
		good := data()
		good.SSHKeys, good.UserData = []string{key}, userData
		d := good
		d.Hostname, d.UID, d.SSHKeys = hostname, uid, []string{sshKey}
		want, err := seed.Make(good)
		if err != nil {
			t.Skip() // the user-data alone
		}
		got, err := seed.Make(d)
		if err != nil {
			if !errors.Is(err, &api.Error{Code: api.CodeInvalid}) {
				t.Fatal(err)
			}
			return
		}
		if !utf8.ValidString(sshKey) {
			t.Fatalf("accepted the key %q", sshKey)
		}
		if userData != "" && string(got.UserData) != userData {
			t.Fatal("the user-data were changed")
		}
		pairs := [][2][]byte{{want.MetaData, got.MetaData}, {want.NetworkConfig, got.NetworkConfig}}
		if userData == "" {
			pairs = append(pairs, [2][]byte{want.UserData, got.UserData})
		}
		for _, p := range pairs {
			if w, g := skeleton(t, string(p[0])), skeleton(t, string(p[1])); w != g {
				t.Fatalf("the structure is\n%s\nand should be\n%s", g, w)
			}
		}
	})
}
