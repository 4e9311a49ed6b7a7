// Package userdata reads the part of cloud-init's user-data that the lab's tiny guest obeys and scripts look into: the
// files that it is to write.
//
// Invariants:
//   - what cloud-init would write is returned as it would be, or there is an error; keys of other modules are left alone.
package userdata

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// File is an entry of write_files.
type File struct {
	Path    string
	Mode    fs.FileMode
	Content string
}

// Files are the entries of write_files of a #cloud-config. They must be written as examples have them: a list of mappings
// with path, permissions ("0640"; 0644 if there are none) and a content that is a block (content: |); owner is left out.
func Files(text string) (files []File, err error) {
	lines := strings.Split(text, "\n")
	if lines[0] != "#cloud-config" {
		return nil, errors.New("user-data: the first line is not #cloud-config")
	}
	inside := false
	for i := 1; i < len(lines); i++ {
		line := strings.TrimRight(lines[i], " ")
		words := strings.TrimLeft(line, " ")
		indent := len(line) - len(words)
		switch {
		case words == "" || strings.HasPrefix(words, "#"):
			continue
		case indent == 0:
			inside = line == "write_files:"
			continue
		case !inside:
			continue
		}
		if item, ok := strings.CutPrefix(words, "- "); ok {
			files = append(files, File{Mode: 0o644})
			words, indent = item, indent+2
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("user-data: line %d: write_files is not a list", i+1)
		}
		last := &files[len(files)-1]
		key, value, _ := strings.Cut(words, ":")
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		switch key {
		case "path":
			last.Path = value
		case "permissions":
			mode, err := strconv.ParseUint(value, 8, 12)
			if err != nil {
				return nil, fmt.Errorf("user-data: line %d: permissions %q are not octal", i+1, value)
			}
			last.Mode = fs.FileMode(mode)
		case "content":
			if value != "|" {
				return nil, fmt.Errorf("user-data: line %d: content is not a block (content: |)", i+1)
			}
			last.Content, i = block(lines, i+1, indent)
		case "owner":
		default:
			return nil, fmt.Errorf("user-data: line %d: %s is not understood in write_files", i+1, key)
		}
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Path, "/") {
			return nil, fmt.Errorf("user-data: write_files: path %q does not begin with /", f.Path)
		}
	}
	return files, nil
}

// block is the block scalar that begins at a line, of a key that is indented so far, and its last line's index.
func block(lines []string, at, key int) (content string, last int) {
	end, indent := at, 0
	for i := at; i < len(lines); i++ {
		words := strings.TrimLeft(lines[i], " ")
		if words == "" {
			continue
		}
		if in := len(lines[i]) - len(words); indent == 0 {
			indent = in
		} else if in < indent {
			break
		}
		if indent <= key {
			break
		}
		end = i + 1
	}
	var b strings.Builder
	for _, line := range lines[at:end] {
		b.WriteString(line[min(indent, len(line)):] + "\n")
	}
	return b.String(), end - 1
}
