package wire

import (
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"widecloud/api"
)

const (
	maxDocument = 1 << 20
	maxSubject  = 256
	// maxValid keeps a document from outliving any memory of what it was for.
	maxValid = 366 * 24 * time.Hour
	// backStep is how far our own clock may have been set back since a challenge was made.
	backStep = time.Minute
)

// Envelope is a signed document between sites. Sign fills From, Certificate and Signature; the rest is the sender's.
type Envelope struct {
	Kind    string `json:"kind"` // what the body is; a lower-case label
	From    string `json:"from"` // the sender's site
	To      string `json:"to"`   // the only site that may take it
	Subject string `json:"subject,omitempty"`
	// Serial counts up per From, Kind and Subject, beginning with 1. A receiver takes none twice and none lower.
	Serial uint64 `json:"serial"`
	// Challenge is the newest that the sender has got from the receiver. It bears the receiver's time, from which
	// ValidSeconds counts: the sender's clock plays no part.
	Challenge    Challenge       `json:"challenge"`
	ValidSeconds int64           `json:"valid_seconds"`
	Body         json.RawMessage `json:"body"`
	Certificate  []byte          `json:"certificate"` // DER, of the sender's controller
	Signature    []byte          `json:"signature"`   // ECDSA with SHA-256, ASN.1 (FIPS 186-5)
}

// signed gives the octets that the signature is over: each field with its length before it, so that no two
// documents have the same; the body in the one form that encoding/json gives it, so that it may be reformatted on its way.
func (e *Envelope) signed() ([]byte, error) {
	body, err := json.Marshal(e.Body)
	if err != nil {
		return nil, api.Invalidf("body", "is not JSON: %v", err)
	}
	b := []byte("widecloud document 1\n")
	for _, field := range [][]byte{
		[]byte(e.Kind), []byte(e.From), []byte(e.To), []byte(e.Subject), strconv.AppendUint(nil, e.Serial, 10),
		[]byte(e.Challenge), strconv.AppendInt(nil, e.ValidSeconds, 10), body, e.Certificate,
	} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(field)))
		b = append(b, field...)
	}
	return b, nil
}

// validate checks what can be checked without knowing anybody.
func (e *Envelope) validate() error {
	switch {
	case !isLabel(e.Kind):
		return api.Invalidf("kind", "%q is not a label", e.Kind)
	case !isLabel(e.From):
		return api.Invalidf("from", "%q is not a site's name", e.From)
	case !isLabel(e.To):
		return api.Invalidf("to", "%q is not a site's name", e.To)
	case len(e.Subject) > maxSubject:
		return api.Invalidf("subject", "is longer than %d octets", maxSubject)
	case e.Serial == 0:
		return api.Invalidf("serial", "is 0, and counts from 1")
	case e.ValidSeconds <= 0 || e.ValidSeconds > int64(maxValid/time.Second):
		return api.Invalidf("valid_seconds", "%d is not within 1 and %d", e.ValidSeconds, int64(maxValid/time.Second))
	case len(e.Body) == 0:
		return api.Invalidf("body", "is missing")
	}
	return nil
}

// Sign gives the document with its sender, certificate and signature. The credential must be a controller's.
func Sign(c *Credential, e Envelope) (Envelope, error) {
	if c.Identity.Role != RoleController {
		return Envelope{}, fmt.Errorf("sign document: %s may not speak for its site", c.Identity)
	}
	e.From, e.Certificate = c.Identity.Site, c.leaf.Raw
	if err := e.validate(); err != nil {
		return Envelope{}, fmt.Errorf("sign document: %w", err)
	}
	text, err := e.signed()
	if err != nil {
		return Envelope{}, fmt.Errorf("sign document: %w", err)
	}
	sum := sha256.Sum256(text)
	if e.Signature, err = ecdsa.SignASN1(rand.Reader, c.key, sum[:]); err != nil {
		return Envelope{}, fmt.Errorf("sign document: %w", err)
	}
	return e, nil
}

// Challenge is a receiver's own time, sealed so that only the receiver can have made it, for one sender.
type Challenge string

// Challenges makes and reads a site's challenges.
type Challenges struct {
	secret []byte
	now    func() time.Time
}

// NewChallenges takes the site's secret, at least 16 random octets, to be kept over restarts: with another secret all
// documents under way are stale, and all that is lost is that they must be signed anew. now may be nil: time.Now.
func NewChallenges(secret []byte, now func() time.Time) (*Challenges, error) {
	if len(secret) < 16 {
		return nil, fmt.Errorf("make challenges: secret of %d octets, want at least 16", len(secret))
	}
	if now == nil {
		now = time.Now
	}
	return &Challenges{secret: append([]byte(nil), secret...), now: now}, nil
}

// New makes a challenge for a sender's site.
func (c *Challenges) New(sender string) Challenge {
	b := binary.BigEndian.AppendUint64(nil, uint64(c.now().UnixMilli()))
	return Challenge(base64.RawURLEncoding.EncodeToString(append(b, c.seal(sender, b)...)))
}

func (c *Challenges) seal(sender string, stamp []byte) []byte {
	mac := hmac.New(sha256.New, c.secret)
	mac.Write([]byte("widecloud challenge 1\n" + sender + "\n"))
	mac.Write(stamp)
	return mac.Sum(nil)
}

// made tells when a challenge was made, by our clock of then.
func (c *Challenges) made(sender string, ch Challenge) (time.Time, error) {
	stale := func(text string) error { return &api.Error{Code: api.CodeStale, Field: "challenge", Message: text} }
	b, err := base64.RawURLEncoding.Strict().DecodeString(string(ch))
	if err != nil || len(b) != 8+sha256.Size || !hmac.Equal(b[8:], c.seal(sender, b[:8])) {
		return time.Time{}, stale("is not one that was given to this sender; ask for a new one")
	}
	t := time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
	if t.After(c.now().Add(backStep)) {
		return time.Time{}, stale("is of a time that is yet to come: the clock was set back; ask for a new one")
	}
	return t, nil
}

// SerialKey is what serials count up for.
type SerialKey struct{ From, Kind, Subject string }

// Serials remembers the highest serial that was taken for each key, and the digest of its document, over restarts.
type Serials interface {
	// Advance applies NextSerial to what is remembered and stores a fresh serial durably before it returns, as one
	// step.
	Advance(ctx context.Context, key SerialKey, serial uint64, digest [sha256.Size]byte) (fresh bool, err error)
}

// NextSerial is the rule against replays: a higher serial is fresh; the highest again, with the same document, is a
// repetition and no error; all else is CodeStale. Have is zero if there was none.
func NextSerial(have uint64, haveDigest [sha256.Size]byte, serial uint64, digest [sha256.Size]byte) (fresh bool, err error) {
	switch {
	case serial > have:
		return true, nil
	case serial == have && digest == haveDigest:
		return false, nil
	case serial == have:
		return false, &api.Error{Code: api.CodeStale, Field: "serial", Message: fmt.Sprintf("%d was used by another document", serial)}
	}
	return false, &api.Error{Code: api.CodeStale, Field: "serial", Message: fmt.Sprintf("%d is lower than %d, which was taken before", serial, have)}
}

// MemorySerials is a Serials that forgets with its process, for tests.
type MemorySerials struct {
	mu   sync.Mutex
	seen map[SerialKey]seenSerial
}

type seenSerial struct {
	serial uint64
	digest [sha256.Size]byte
}

// Advance applies NextSerial.
func (m *MemorySerials) Advance(_ context.Context, key SerialKey, serial uint64, digest [sha256.Size]byte) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.seen[key]
	fresh, err := NextSerial(have.serial, have.digest, serial, digest)
	if fresh {
		if m.seen == nil {
			m.seen = map[SerialKey]seenSerial{}
		}
		m.seen[key] = seenSerial{serial, digest}
	}
	return fresh, err
}

// Verifier takes the documents that are for a site.
type Verifier struct {
	Trust      *Trust // its site is the one that documents must be for
	Challenges *Challenges
	Serials    Serials
}

// Verified is a document that may be believed.
type Verified struct {
	Envelope
	Expires time.Time         // by our own clock
	Digest  [sha256.Size]byte // of all that is signed
	Newer   bool              // the sender's level is higher than ours, as Session.Newer; set by who took it from a session
	// Repeated tells that this very document was taken before. Its effect may have been lost with a crash between the
	// taking and the effect: give it again, so that it takes hold once.
	Repeated bool
}

// Open reads a document and verifies it. See Verify.
func (v *Verifier) Open(ctx context.Context, text []byte) (Verified, error) {
	if len(text) > maxDocument {
		return Verified{}, api.Errorf(api.CodeInvalid, "document is longer than %d octets", maxDocument)
	}
	var e Envelope
	if err := decodeStrict(text, &e); err != nil {
		return Verified{}, err
	}
	return v.Verify(ctx, e)
}

// Verify checks everything about a document but its body's meaning, and takes its serial. Its errors are api.Errors that
// name the field: to (not for us), from (not one whom we believe), certificate, signature (CodeForbidden), challenge,
// valid_seconds (expired), serial (replayed) (CodeStale), or what is malformed (CodeInvalid). A document that is refused
// changes nothing.
func (v *Verifier) Verify(ctx context.Context, e Envelope) (Verified, error) {
	d, err := v.Check(e)
	if err != nil {
		return Verified{}, err
	}
	fresh, err := v.Serials.Advance(ctx, SerialKey{e.From, e.Kind, e.Subject}, e.Serial, d.Digest)
	if err != nil {
		return Verified{}, err
	}
	d.Repeated = !fresh
	return d, nil
}

// Check is Verify without the serial, for a caller who stores the serial (by NextSerial) together with the document's
// effect.
func (v *Verifier) Check(e Envelope) (Verified, error) {
	forbidden := func(field, format string, args ...any) error {
		return &api.Error{Code: api.CodeForbidden, Field: field, Message: fmt.Sprintf(format, args...)}
	}
	if err := e.validate(); err != nil {
		return Verified{}, err
	}
	if e.To != v.Trust.Site() {
		return Verified{}, forbidden("to", "document is for site %q, this is %q", e.To, v.Trust.Site())
	}
	if e.From != v.Trust.Site() {
		if _, ok := v.Trust.Peer(e.From); !ok {
			return Verified{}, forbidden("from", "site %q is no peer of ours", e.From)
		}
	}
	leaf, err := x509.ParseCertificate(e.Certificate)
	if err != nil {
		return Verified{}, api.Invalidf("certificate", "%v", err)
	}
	id, err := v.Trust.Verify(leaf)
	if err != nil {
		return Verified{}, forbidden("certificate", "%v", err)
	}
	if id != Controller(e.From) {
		return Verified{}, forbidden("certificate", "is of %s, who may not sign for site %q", id, e.From)
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return Verified{}, forbidden("certificate", "its key is not ECDSA")
	}
	text, err := e.signed()
	if err != nil {
		return Verified{}, err
	}
	d := Verified{Envelope: e, Digest: sha256.Sum256(text)}
	if !ecdsa.VerifyASN1(key, d.Digest[:], e.Signature) {
		return Verified{}, forbidden("signature", "is not of this document by %s", id)
	}
	made, err := v.Challenges.made(e.From, e.Challenge)
	if err != nil {
		return Verified{}, err
	}
	d.Expires = made.Add(time.Duration(e.ValidSeconds) * time.Second)
	if now := v.Challenges.now(); !now.Before(d.Expires) {
		return Verified{}, &api.Error{Code: api.CodeStale, Field: "valid_seconds", Message: fmt.Sprintf(
			"document has expired %v ago by this site's clock", now.Sub(d.Expires).Round(time.Second))}
	}
	return d, nil
}

// DecodeBody reads a document's body into v. A field that v does not have is an error, unless the sender is Newer. An error
// names the field, with body. before it.
func (d *Verified) DecodeBody(v any) error {
	err := decode(d.Body, v, d.Newer)
	var bad *api.Error
	if errors.As(err, &bad) {
		field := "body"
		if bad.Field != "" {
			field += "." + bad.Field
		}
		return &api.Error{Code: bad.Code, Field: field, Message: bad.Message}
	}
	return err
}
