package cloud_test

import (
	"net/netip"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"widecloud/internal/cloud"
)

func TestCheckService(t *testing.T) {
	for text, good := range map[string]bool{
		"203.0.113.7": true, "2001:db8:f::7": true, "10.0.0.7": true,
		"0.0.0.0": false, "0.1.2.3": false, "127.0.0.1": false, "169.254.0.1": false, "224.0.0.1": false, "240.0.0.1": false,
		"255.255.255.255": false, "::": false, "::1": false, "fe80::1": false, "fe80::1%eth0": false, "ff02::1": false,
		"2001:db8::1%eth0": false, "::ffff:203.0.113.7": false,
	} {
		if err := cloud.CheckService("address", netip.MustParseAddr(text)); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCheckKeys(t *testing.T) {
	key := strings.Repeat("k", 1<<10)
	keys := make([]string, cloud.MaxKeyBytes/len(key))
	for i := range keys {
		keys[i] = key
	}
	if err := cloud.CheckKeys("ssh_keys", keys); err != nil {
		t.Errorf("%d bytes: %v", cloud.MaxKeyBytes, err)
	}
	if err := cloud.CheckKeys("ssh_keys", append(keys, "k")); err == nil {
		t.Errorf("%d bytes are taken", cloud.MaxKeyBytes+1)
	}
}

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"plain words":                  "plain words",
		"two\nlines\r\n":               "two lines  ",
		"\x1b[2J\x1b]0;title\x07":      " [2J ]0;title ",
		"\u009b2J":                     " 2J",
		"a\u202eb\u2066c\u200bd":       "a b c d",
		"a\u2028b\u2029c":              "a b c",
		"bad \xff\xfe bytes":           "bad   bytes",
		"日本語":                          "日本語",
		strings.Repeat("é", 20) + "zz": strings.Repeat("é", 16) + "…",
		strings.Repeat("a", 31) + "éb": strings.Repeat("a", 31) + "…",
	} {
		if got := cloud.Line(in, 32); got != want {
			t.Errorf("Line(%q) is %q, want %q", in, got, want)
		}
	}
}

// FuzzLine: what others wrote is one line of bounded length that commands no terminal.
func FuzzLine(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m", 10)
	f.Add(strings.Repeat("日", 40), 100)
	f.Fuzz(func(t *testing.T, in string, most int) {
		most = max(0, min(most, 1000))
		got := cloud.Line(in, most)
		if !utf8.ValidString(got) {
			t.Fatalf("%q is not UTF-8", got)
		}
		if len(got) > most+len("…") {
			t.Fatalf("%d bytes of at most %d", len(got), most)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
				t.Fatalf("%q has %U", got, r)
			}
		}
	})
}
