package userdata_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/lab/userdata"
)

func TestFiles(t *testing.T) {
	got, err := userdata.Files(`#cloud-config
# A comment.
ssh_authorized_keys:
  - ssh-ed25519 AAAA
write_files:
  - path: /etc/a
    permissions: "0640"
    owner: root:root
    content: |
      [web]
        deeper = 1

      # no comment
  - path: "/etc/b"
    content: |
      one

  # a comment
  - path: /etc/empty
runcmd:
  - [systemctl, enable, --now, a]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []userdata.File{
		{Path: "/etc/a", Mode: 0o640, Content: "[web]\n  deeper = 1\n\n# no comment\n"},
		{Path: "/etc/b", Mode: 0o644, Content: "one\n"},
		{Path: "/etc/empty", Mode: 0o644},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFaults(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "not #cloud-config"},
		{"#!/bin/sh\n", "not #cloud-config"},
		{"write_files:\n  path: /a", "line 3: write_files is not a list"},
		{"write_files:\n  - path: a", `"a" does not begin with /`},
		{"write_files:\n  - path: /a\n    permissions: rw", `line 4: permissions "rw"`},
		{"write_files:\n  - path: /a\n    content: text", "line 4: content is not a block"},
		{"write_files:\n  - path: /a\n    encoding: b64", "line 4: encoding is not understood"},
	} {
		text := c.text
		if c.text != "" && !strings.HasPrefix(c.text, "#!") {
			text = "#cloud-config\n" + text
		}
		if _, err := userdata.Files(text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", text, err, c.want)
		}
	}
}

// TestExamples: the examples' user-data is understood.
func TestExamples(t *testing.T) {
	paths, err := filepath.Glob("../../../examples/*user-data.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%v, %v", paths, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files, err := userdata.Files(string(b))
		if err != nil || len(files) == 0 {
			t.Errorf("%s: %d files, %v", path, len(files), err)
		}
	}
}

func FuzzFiles(f *testing.F) {
	f.Add("#cloud-config\nwrite_files:\n  - path: /a\n    content: |\n      x\n")
	f.Add("#cloud-config\nwrite_files:\n- content: |\n\n\n   x\n  y")
	f.Fuzz(func(t *testing.T, text string) {
		files, err := userdata.Files(text)
		for _, x := range files {
			if err == nil && !strings.HasPrefix(x.Path, "/") {
				t.Errorf("%q", x.Path)
			}
		}
	})
}
