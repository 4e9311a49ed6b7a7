package main

import (
	"bytes"
	"testing"
)

func TestYAML(t *testing.T) {
	tests := []struct {
		name string
		v    any
		want string
	}{
		{"nothing", map[string]any{}, "{}\n"},
		{"empty inside", map[string]any{"a": []int{}, "b": map[string]int{}, "c": nil}, "a: []\nb: {}\nc: null\n"},
		{"lists of lists", [][]int{{1, 2}, {}, {3}}, "- - 1\n  - 2\n- []\n- - 3\n"},
		{"mappings in lists", []map[string]any{{"a": 1, "b": []int{2}}}, "- a: 1\n  b:\n    - 2\n"},
		{"what YAML would take for something else", []string{"on", "No", "null", "~", "1e3", "10.0.0.1", "a: b", "- x", "#c", "", " a", "2026-01-01", "0x1f", "yes it is", "a b"},
			"- \"on\"\n- \"No\"\n- \"null\"\n- \"~\"\n- \"1e3\"\n- \"10.0.0.1\"\n- \"a: b\"\n- \"- x\"\n- \"#c\"\n- \"\"\n- \" a\"\n- \"2026-01-01\"\n- \"0x1f\"\n- yes it is\n- a b\n"},
		{"lines and controls", "a\nb\x00\x7f\u0085\ufeff<é>", "\"a\\nb\\u0000\\u007f\\u0085\\ufeff<é>\"\n"},
		{"what a terminal takes for commands", "a\u009b31m\u202eb\u2066\u2028", "\"a\\u009b31m\\u202eb\\u2066\\u2028\"\n"},
		{"large numbers", []any{int64(9007199254740993), 0.1}, "- 9007199254740993\n- 0.1\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := writeYAML(&b, tt.v); err != nil || b.String() != tt.want {
				t.Errorf("got %q, %v\nwant %q", b.String(), err, tt.want)
			}
		})
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1024: "1KiB", 1536 << 10: "1.5MiB", 1 << 40: "1TiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
}
