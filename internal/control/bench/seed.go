package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/wire"
)

const (
	siteName    = "tokyo"
	imageName   = "debian"
	sshKey      = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA user@example.org"
	imageDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	// watchesOfUser is how many watches a user of the crowd opens; a user may have 100 (internal/serve).
	watchesOfUser = 80
)

var (
	hostRoom = api.Resources{CPUs: 128, MemoryMiB: 256 << 10, DiskGiB: 8000}
	vmNeeds  = api.Resources{CPUs: 2, MemoryMiB: 2048, DiskGiB: 20}
	hostCPU  = api.CPU{Arch: "x86_64", Accel: "kvm", Model: "EPYC-Milan", Usable: []string{
		"qemu64", "kvm64", "Nehalem", "Westmere", "SandyBridge", "IvyBridge", "Haswell", "Broadwell", "EPYC", "EPYC-Rome", "EPYC-Milan"}}
)

func hostName(i int) string      { return fmt.Sprintf("h%05d", i) }
func ownerName(i int) string     { return fmt.Sprintf("lab%04d", i) }
func vmName(i int) string        { return fmt.Sprintf("vm%05d", i) }
func watcherName(i int) string   { return fmt.Sprintf("w%04d", i) }
func tokenOf(user string) string { return "wcc_" + user + "_secret" }

// vtep is the underlay address of a host.
func vtep(i int) netip.Addr {
	a := netip.MustParseAddr("2001:db8:1::").As16()
	a[14], a[15] = byte((i+1)>>8), byte(i+1)
	return netip.AddrFrom16(a)
}

// site is what the store of a run has, and where its controller is.
type site struct {
	dir          string
	api, outside string // HOST:PORT
	plan         plan
	ca           *x509.Certificate
	agents       []*wire.Credential
	vms          []*api.VM // all, those that run first
	onHost       [][]*api.VM
}

// newSite writes a site's store and certificates into dir.
func newSite(dir string, p plan) (*site, error) {
	s := &site{dir: dir, plan: p, onHost: make([][]*api.VM, p.Hosts)}
	if err := os.MkdirAll(filepath.Join(dir, "images"), 0o711); err != nil {
		return nil, err
	}
	for _, at := range []*string{&s.api, &s.outside} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*at = ln.Addr().String()
		ln.Close()
	}
	authority, err := wire.NewAuthority(wire.AuthorityOptions{Site: siteName})
	if err != nil {
		return nil, err
	}
	if err := authority.Save(filepath.Join(dir, "authority.pem")); err != nil {
		return nil, err
	}
	s.ca = authority.Certificate()
	for i := range p.Hosts {
		c, err := newCredential(authority, dir, hostName(i))
		if err != nil {
			return nil, err
		}
		s.agents = append(s.agents, c)
	}
	return s, s.write()
}

// newCredential makes an agent's certificate, as a join does.
func newCredential(a *wire.Authority, dir, host string) (*wire.Credential, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	leaf, err := a.SignAgent(host, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := append(wire.EncodeCertificate(leaf), wire.EncodeCertificate(a.Certificate())...)
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	path := filepath.Join(dir, "agent.pem")
	defer os.Remove(path)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, err
	}
	return wire.LoadCredential(path)
}

// seeder writes records in large transactions.
type seeder struct {
	st    *bolt.Store
	now   time.Time
	batch []store.KV
	uid   int
}

// write fills the store. Its keys are those of docs/architecture.md, "The stores' keys".
func (s *site) write() error {
	st, err := bolt.Open(bolt.Options{Path: filepath.Join(s.dir, "store.db"), NoSync: true})
	if err != nil {
		return err
	}
	defer st.Close()
	w := &seeder{st: st, now: time.Now().UTC().Truncate(time.Millisecond)}
	w.object(&api.Image{
		Meta:   w.meta(imageName, ""),
		Spec:   api.ImageSpec{Format: "qcow2"},
		Status: api.ImageStatus{Phase: "ready", Digest: imageDigest, Format: "qcow2", Bytes: 400 << 20, VirtualMiB: 4096},
	})
	w.user("admin", "", true)
	w.user("board", "", true) // for the watchers that see everything
	for i := range (s.plan.Watchers + watchesOfUser - 1) / watchesOfUser {
		w.user(watcherName(i), ownerName(0), false)
	}
	for i := range s.plan.owners() {
		w.owner(i)
	}
	for i := range s.plan.VMs + s.plan.Stopped {
		v := w.vm(i, s.plan)
		s.vms = append(s.vms, v)
		s.onHost[i%s.plan.Hosts] = append(s.onHost[i%s.plan.Hosts], v)
	}
	for i := range s.plan.Hosts {
		w.host(i, s.agents[i].Key(), len(s.onHost[i]))
	}
	return w.flush()
}

func (w *seeder) meta(name, owner string) api.Meta {
	w.uid++
	return api.Meta{Name: name, UID: fmt.Sprintf("00000000-0000-4000-8000-%012x", w.uid), Owner: owner, Home: siteName, Created: w.now}
}

func (w *seeder) record(key string, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic("bench: marshal " + key + ": " + err.Error()) // of our own types
	}
	w.batch = append(w.batch, store.KV{Key: key, Value: text})
}

func (w *seeder) object(o api.Object) {
	w.record("objects/"+string(o.Kind())+"/"+o.Metadata().Name, o)
}

// flush writes what was recorded.
func (w *seeder) flush() error {
	for len(w.batch) > 0 {
		now := w.batch[:min(len(w.batch), 2000)]
		w.batch = w.batch[len(now):]
		if _, err := w.st.Update(context.Background(), func(tx store.Tx) error {
			for _, kv := range now {
				if err := tx.Put(kv.Key, kv.Value); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return fmt.Errorf("make the site: %w", err)
		}
	}
	return nil
}

func (w *seeder) user(name, owner string, admin bool) {
	sum := sha256.Sum256([]byte("secret"))
	w.object(&api.User{Meta: w.meta(name, owner), Spec: api.UserSpec{Admin: admin}, Status: api.UserStatus{Tokens: []string{name}}})
	w.record("tokens/"+name, map[string]any{"user": name, "hash": hex.EncodeToString(sum[:]), "created": w.now, "used": w.now})
}

// owner makes an organisation with a user and a network of its name.
func (w *seeder) owner(i int) {
	name := ownerName(i)
	w.object(&api.Owner{Meta: w.meta(name, "")})
	w.user(name, name, false)
	w.object(&api.Network{Meta: w.meta(name, name), Spec: api.NetworkSpec{Prefix: networkPrefix(i).String(), Mobility: "l2", MTU: 1430, VNI: uint32(i + 1)}})
}

func networkPrefix(i int) netip.Prefix {
	a := netip.MustParseAddr("2001:db8:a00::").As16()
	a[6], a[7] = byte(i>>8), byte(i)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// vm makes a VM that has been placed, with its volume.
func (w *seeder) vm(i int, p plan) *api.VM {
	owner, host := i%p.owners(), i%p.Hosts
	v := &api.VM{
		Meta: w.meta(vmName(i), ownerName(owner)),
		Spec: api.VMSpec{Hardware: api.Hardware{CPUs: vmNeeds.CPUs, MemoryMiB: vmNeeds.MemoryMiB}, DiskGiB: vmNeeds.DiskGiB, Image: imageName, Network: ownerName(owner), Power: api.PowerOn,
			UserData: "#cloud-config\n", SSHKeys: []string{sshKey}},
	}
	mac := cloud.MAC(v.UID)
	v.Status = api.VMStatus{
		Phase: api.PhaseRunning, Epoch: 1, Site: siteName, Host: hostName(host), VTEP: vtep(host).String(), Since: w.now,
		CPU: api.CPU{Arch: hostCPU.Arch, Accel: hostCPU.Accel, Model: hostCPU.Model}, MAC: mac.String(),
		Addresses: []api.VMAddress{{Address: cloud.EUI64(networkPrefix(owner), mac).String(), Origin: "slaac", Seen: true}},
	}
	if i >= p.VMs {
		v.Spec.Power, v.Status.Phase = api.PowerOff, api.PhaseStopped
	}
	w.object(v)
	w.object(&api.Volume{Meta: w.meta(v.Name+"."+api.RootDisk, v.Owner), Spec: api.VolumeSpec{SizeGiB: vmNeeds.DiskGiB},
		Status: api.VolumeStatus{Phase: api.VolumeOwn, VM: v.Name, Disk: api.RootDisk, Image: imageDigest, SizeMiB: int64(vmNeeds.DiskGiB) * 1024,
			Site: siteName, Host: hostName(host), AllocatedBytes: diskBytes}})
	return v
}

func (w *seeder) host(i int, key string, vms int) {
	roles := []api.HostRole{api.RoleHypervisor}
	w.object(&api.Host{Meta: w.meta(hostName(i), ""), Spec: api.HostSpec{Roles: roles}, Status: api.HostStatus{
		Connected: true, Since: w.now, Roles: roles, VTEP: vtep(i).String(), Hypervisor: hypervisor, CPU: hostCPU, Capacity: hostRoom, Images: []string{imageDigest},
		Allotted: api.Resources{CPUs: vms * vmNeeds.CPUs, MemoryMiB: vms * vmNeeds.MemoryMiB, DiskGiB: vms * vmNeeds.DiskGiB},
	}})
	w.record("enrolments/"+hostName(i), map[string]any{"key": key})
}
