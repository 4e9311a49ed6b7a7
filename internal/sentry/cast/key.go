package cast

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

// keyBytes is the length of a secret.
const keyBytes = 32

type keyID [4]byte

// Key is the secret that a sender and its receivers share. It prints as its identity, which is not secret.
type Key struct {
	secret [keyBytes]byte
	id     keyID
}

// NewKey makes a key from the system's random numbers.
func NewKey() Key {
	var secret [keyBytes]byte
	rand.Read(secret[:]) // never fails (crypto/rand)
	return keyOf(secret)
}

func keyOf(secret [keyBytes]byte) Key {
	k := Key{secret: secret}
	copy(k.id[:], k.expand(nil, "id", len(k.id)))
	return k
}

// ParseKey reads a key from text: 64 hexadecimal digits. The error does not show the text.
func ParseKey(text string) (Key, error) {
	b, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(b) != keyBytes {
		return Key{}, fmt.Errorf("a key is %d hexadecimal digits, as \"sentryd key\" prints them", 2*keyBytes)
	}
	return keyOf([keyBytes]byte(b)), nil
}

// LoadKey reads a key from a file, which other users than its owner and group may not read.
func LoadKey(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("read a key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Key{}, fmt.Errorf("read a key: %w", err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o007 != 0 {
		return Key{}, fmt.Errorf("key %s is open to every user (mode %03o): chmod 640 %s", path, info.Mode().Perm(), path)
	}
	var b [4 * keyBytes]byte
	n, err := f.Read(b[:])
	if err != nil {
		return Key{}, fmt.Errorf("read key %s: %w", path, err)
	}
	k, err := ParseKey(string(b[:n]))
	if err != nil {
		return Key{}, fmt.Errorf("key %s: %w", path, err)
	}
	return k, nil
}

// Text is the key as ParseKey reads it. It is secret.
func (k Key) Text() string { return hex.EncodeToString(k.secret[:]) }

// String is the key's identity, as it is in each datagram.
func (k Key) String() string { return hex.EncodeToString(k.id[:]) }

// GoString hides the secret from %#v.
func (k Key) GoString() string { return "cast.Key(" + k.String() + ")" }

func (k Key) expand(salt []byte, info string, n int) []byte {
	b, err := hkdf.Key(sha256.New, k.secret[:], salt, "widecloud cast 1 "+info, n)
	if err != nil {
		panic(err) // for lengths that are not used here
	}
	return b
}

// session names one run of a sender or receiver.
type session struct {
	epoch  uint64 // its start, in microseconds since 1970
	random uint64
}

func (s session) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.epoch), s.random)
}

// cipher is the AEAD of a session and kind of datagrams.
func (k Key) cipher(s session, kind byte) cipher.AEAD {
	info := "shard"
	if kind == kindReport {
		info = "report"
	}
	a, err := chacha20poly1305.New(k.expand(s.bytes(), info, chacha20poly1305.KeySize))
	if err != nil {
		panic(err) // for keys of another length
	}
	return a
}
