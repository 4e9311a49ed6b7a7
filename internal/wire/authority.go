package wire

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const (
	caLife   = 30 * 365 * 24 * time.Hour
	leafLife = 10 * 365 * 24 * time.Hour
	// backdate lets a certificate be accepted by a peer whose clock is behind: peers' clocks are not trusted, ours
	// neither by them.
	backdate = 48 * time.Hour
)

// Authority is a site's certificate authority: it makes the certificates of the site's controller and agents. Its key
// never leaves the controller.
type Authority struct {
	site string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	now  func() time.Time
}

// AuthorityOptions says how to make or load an Authority.
type AuthorityOptions struct {
	Site string           // the site's name, a DNS label
	Now  func() time.Time // nil: time.Now
}

// NewAuthority makes a new authority for a site, with a new key (ECDSA P-256).
func NewAuthority(o AuthorityOptions) (*Authority, error) {
	if !isLabel(o.Site) {
		return nil, fmt.Errorf("make authority: site %q is not a DNS label", o.Site)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := o.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "widecloud site " + o.Site},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
		URIs:                  []*url.URL{{Scheme: scheme, Host: o.Site}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority's certificate: %w", err)
	}
	return &Authority{site: o.Site, key: key, cert: cert, now: o.Now}, nil
}

// LoadAuthority reads what Save wrote. A missing file gives fs.ErrNotExist; a file of another site is an error.
func LoadAuthority(path string, o AuthorityOptions) (*Authority, error) {
	certs, key, err := readPEM(path)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	if key == nil || len(certs) != 1 {
		return nil, fmt.Errorf("load authority: %s: want one certificate and one key, found %d and %t", path, len(certs), key != nil)
	}
	site, err := SiteOf(certs[0])
	if err != nil {
		return nil, fmt.Errorf("load authority: %s: %w", path, err)
	}
	if site != o.Site {
		return nil, fmt.Errorf("load authority: %s: is of site %q, want %q", path, site, o.Site)
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("load authority: %s: key and certificate do not belong together", path)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Authority{site: site, key: key, cert: certs[0], now: o.Now}, nil
}

// Save writes key and certificate to one file (mode 0600), wholly or not at all, and to the disk before it returns.
func (a *Authority) Save(path string) error {
	if err := writePEM(path, a.key, a.cert); err != nil {
		return fmt.Errorf("save authority: %w", err)
	}
	return nil
}

// Site is the site's name.
func (a *Authority) Site() string { return a.site }

// Certificate is the authority's own certificate, which peers pin.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Controller makes a key and a certificate for the site's controller. It is cheap enough to be done at each start.
func (a *Authority) Controller() (*Credential, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make controller's key: %w", err)
	}
	leaf, err := a.issue(Controller(a.site), key.Public())
	if err != nil {
		return nil, err
	}
	return newCredential(leaf, a.cert, key)
}

// SignAgent makes the certificate of a host's agent out of its signing request (PEM). Only the request's public key is
// used; names in it are ignored, since the caller knows which host the token was for.
func (a *Authority) SignAgent(host string, request []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != pemRequest {
		return nil, errors.New("sign agent's certificate: no PEM certificate request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("sign agent's certificate: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("sign agent's certificate: request's signature: %w", err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("sign agent's certificate: request's key is not ECDSA P-256")
	}
	return a.issue(Agent(a.site, host), pub)
}

func (a *Authority) issue(id Identity, pub crypto.PublicKey) (*x509.Certificate, error) {
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := a.now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: id.String()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(leafLife),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:                  []*url.URL{id.URI()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate of %s: %w", id, err)
	}
	return x509.ParseCertificate(der)
}

// Credential is a process's own identity: its key, its certificate and its site's authority's certificate.
type Credential struct {
	Identity Identity
	CA       *x509.Certificate
	leaf     *x509.Certificate
	key      *ecdsa.PrivateKey
}

func newCredential(leaf, ca *x509.Certificate, key *ecdsa.PrivateKey) (*Credential, error) {
	id, err := identityOf(leaf)
	if err != nil {
		return nil, err
	}
	site, err := SiteOf(ca)
	if err != nil {
		return nil, err
	}
	switch {
	case site != id.Site:
		return nil, fmt.Errorf("certificate of %s comes with the authority of site %q", id, site)
	case !key.PublicKey.Equal(leaf.PublicKey):
		return nil, fmt.Errorf("certificate of %s is not for this key", id)
	}
	if err := leaf.CheckSignatureFrom(ca); err != nil {
		return nil, fmt.Errorf("certificate of %s is not by its site's authority: %w", id, err)
	}
	return &Credential{Identity: id, CA: ca, leaf: leaf, key: key}, nil
}

// LoadCredential reads what Save wrote. A missing file gives fs.ErrNotExist.
func LoadCredential(path string) (*Credential, error) {
	certs, key, err := readPEM(path)
	if err != nil {
		return nil, fmt.Errorf("load credential: %w", err)
	}
	if key == nil || len(certs) != 2 {
		return nil, fmt.Errorf("load credential: %s: want a key, its certificate and the authority's", path)
	}
	c, err := newCredential(certs[0], certs[1], key)
	if err != nil {
		return nil, fmt.Errorf("load credential: %s: %w", path, err)
	}
	return c, nil
}

// Save writes the credential to one file (mode 0600), wholly or not at all, and to the disk before it returns.
func (c *Credential) Save(path string) error {
	if err := writePEM(path, c.key, c.leaf, c.CA); err != nil {
		return fmt.Errorf("save credential: %w", err)
	}
	return nil
}

// tlsCertificate is the chain that goes over the wire. The authority's certificate goes too: a joiner, who knows only
// its fingerprint, takes it from there.
func (c *Credential) tlsCertificate() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.leaf.Raw, c.CA.Raw}, PrivateKey: c.key, Leaf: c.leaf}
}

// Ends is when the certificate does.
func (c *Credential) Ends() time.Time { return c.leaf.NotAfter }

// Key names the credential's key: the SHA-256 of its SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), in lower-case hex. It is
// the same for every certificate of the key, and what JoinRequest.Key and Caller.Key have.
func (c *Credential) Key() string { return keyOf(c.leaf.RawSubjectPublicKeyInfo) }

func keyOf(publicKeyInfo []byte) string {
	sum := sha256.Sum256(publicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Fingerprint is the SHA-256 of a certificate, in lower-case hex.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// SiteOf says which site's authority a certificate is. A certificate that is no authority's is an error.
func SiteOf(ca *x509.Certificate) (string, error) {
	if !ca.IsCA || !ca.BasicConstraintsValid || ca.KeyUsage&x509.KeyUsageCertSign == 0 {
		return "", errors.New("certificate is not an authority's")
	}
	if len(ca.URIs) != 1 || ca.URIs[0].Scheme != scheme || ca.URIs[0].Path != "" || !isLabel(ca.URIs[0].Host) ||
		ca.URIs[0].String() != scheme+"://"+ca.URIs[0].Host {
		return "", errors.New("authority's certificate names no site")
	}
	return ca.URIs[0].Host, nil
}

// EncodeCertificate gives a certificate as PEM.
func EncodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: cert.Raw})
}

// DecodeCertificate reads exactly one PEM certificate.
func DecodeCertificate(text []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != pemCertificate {
		return nil, errors.New("decode certificate: not a PEM certificate")
	}
	if again, _ := pem.Decode(rest); again != nil {
		return nil, errors.New("decode certificate: more than one PEM block")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("decode certificate: %w", err)
	}
	return cert, nil
}

const (
	pemCertificate = "CERTIFICATE"
	pemRequest     = "CERTIFICATE REQUEST"
	pemKey         = "PRIVATE KEY"
)

func newSerial() (*big.Int, error) {
	// RFC 5280 §4.1.2.2: positive, at most 20 octets.
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make certificate's serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func readPEM(path string) (certs []*x509.Certificate, key *ecdsa.PrivateKey, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			return certs, key, nil
		}
		switch block.Type {
		case pemCertificate:
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", path, err)
			}
			certs = append(certs, cert)
		case pemKey:
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", path, err)
			}
			ec, ok := k.(*ecdsa.PrivateKey)
			if !ok || key != nil {
				return nil, nil, fmt.Errorf("%s: want one ECDSA key", path)
			}
			key = ec
		default:
			return nil, nil, fmt.Errorf("%s: unexpected PEM block %q", path, block.Type)
		}
	}
}

// writePEM replaces path by rename after fsync, and syncs the folder: after a power cut there is the old file or the
// new one (law 3). Key and certificates share one file, so that they can never be of two generations.
func writePEM(path string, key *ecdsa.PrivateKey, certs ...*x509.Certificate) (err error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	var text []byte
	for _, c := range certs {
		text = append(text, EncodeCertificate(c)...)
	}
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})...)

	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if _, err = tmp.Write(text); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
