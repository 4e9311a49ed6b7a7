package config

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"widecloud/api"
)

// Settings lists a site's configuration as it is in force, field by field, in the order of the reference configuration, whose comments
// become the fields' help. file is where the site was loaded from.
func (s *Site) Settings(file, reference string) ([]api.Setting, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	lines, _ := index(text)
	defaults := map[string]string{}
	for _, f := range fieldsOf("", reflect.ValueOf(DefaultSite()).Elem()) {
		defaults[f.key] = f.value
	}
	help := helpOf(reference)
	out := []api.Setting{{Key: "--config", Value: strconv.Quote(file), Source: api.FromFlag, Where: "wcc serve --config",
		Help: "The controller's configuration. It is read when the controller starts: after a change, start it again."}}
	fields := fieldsOf("", reflect.ValueOf(s).Elem())
	slices.SortStableFunc(fields, func(a, b field) int { return help.rank(a.key) - help.rank(b.key) })
	for _, f := range fields {
		set := api.Setting{Key: f.key, Value: f.value, Source: api.FromDefault, Help: help.of(f.key), Where: file}
		if d, ok := defaults[f.key]; ok && !needed[f.key] {
			set.Default = d
		}
		if line := lines[f.key]; line > 0 {
			set.Source, set.Where = api.FromFile, fmt.Sprintf("%s:%d", file, line)
		}
		out = append(out, set)
	}
	return out, nil
}

// needed are the fields without a default.
var needed = map[string]bool{"site": true, "data_dir": true}

// field is a field of a configuration as it would be written.
type field struct{ key, value string }

// fieldsOf lists the fields of a struct, and of the tables in it.
func fieldsOf(prefix string, v reflect.Value) (out []field) {
	for i := range v.NumField() {
		key := prefix + v.Type().Field(i).Tag.Get("toml")
		f := v.Field(i)
		switch {
		case f.Kind() == reflect.Map:
			names := f.MapKeys()
			slices.SortFunc(names, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
			for _, name := range names {
				out = append(out, fieldsOf(key+"."+name.String()+".", f.MapIndex(name))...)
			}
		case f.Kind() == reflect.Struct && f.NumField() > 0 && f.Type().Field(0).Tag.Get("toml") != "":
			out = append(out, fieldsOf(key+".", f)...)
		default:
			out = append(out, field{key, written(f)})
		}
	}
	return out
}

// written is a value as it would be written in a file.
func written(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case Bytes:
		return strconv.Quote(x.String())
	case Duration:
		return strconv.Quote(zeros.Replace(x.String() + "|"))
	case netip.Addr:
		if !x.IsValid() {
			return `""`
		}
		return strconv.Quote(x.String())
	case netip.Prefix:
		if !x.IsValid() {
			return `""`
		}
		return strconv.Quote(x.String())
	}
	switch v.Kind() {
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = written(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Bool, reflect.Int, reflect.Int64:
		return fmt.Sprint(v.Interface())
	}
	return strconv.Quote(fmt.Sprint(v.Interface()))
}

// zeros leaves out what Go writes of a duration and people do not: 2160h0m0s.
var zeros = strings.NewReplacer("h0m0s|", "h", "m0s|", "m", "|", "")

// String is the amount as it is written: "20GiB".
func (v Bytes) String() string {
	for shift, unit := range map[int]string{40: "TiB", 30: "GiB", 20: "MiB", 10: "KiB"} {
		if v > 0 && v%(1<<shift) == 0 && v>>shift < 1024 {
			return strconv.FormatInt(int64(v>>shift), 10) + unit
		}
	}
	return strconv.FormatInt(int64(v), 10)
}

// helps are what a reference configuration says of its fields, and in which order it has them.
type helps struct {
	text  map[string]string
	order map[string]int
}

var (
	tableLine = regexp.MustCompile(`^\[([a-z0-9_.]+)\]$`)
	// A field that shows its default is commented out. It has a value right after the sign, which a sentence has not.
	fieldLine = regexp.MustCompile(`^(?:# ?)?([a-z][a-z0-9_]*) = ("[^"]*"|\[[^\]]*\]|true|false|[0-9]+)\s*(?:#\s*(.*))?$`)
)

// helpOf reads a reference configuration: the comment before a field is its help, and so is the one at its line's end. A comment holds
// for the fields that follow it without another one.
func helpOf(reference string) helps {
	h := helps{map[string]string{}, map[string]int{}}
	var table string
	var comment []string
	var used bool // the comment has had its first field
	for line := range bytes.Lines([]byte(reference)) {
		text := strings.TrimSpace(string(line))
		if m := tableLine.FindStringSubmatch(text); m != nil {
			h.text[m[1]] = strings.Join(comment, "\n") // a table's own comment is that of its fields that have none
			table, comment, used = m[1]+".", nil, false
			continue
		}
		if m := fieldLine.FindStringSubmatch(text); m != nil {
			key := general(table + m[1])
			if _, twice := h.order[key]; !twice {
				h.order[key] = len(h.order) + 1
				h.text[key] = strings.TrimSpace(strings.Join(comment, "\n") + "\n" + m[3])
			}
			used = true
			continue
		}
		words, ok := strings.CutPrefix(text, "#")
		if !ok {
			if text == "" {
				comment, used = nil, false
			}
			continue
		}
		if used {
			comment, used = nil, false
		}
		comment = append(comment, strings.TrimPrefix(words, " "))
	}
	return h
}

var poolKey = regexp.MustCompile(`^pool\.[^.]+\.`)

// general is the key of which the help is: pools have one for all.
func general(key string) string { return poolKey.ReplaceAllString(key, "pool.*.") }

func (h helps) of(key string) string {
	if text := h.text[general(key)]; text != "" {
		return text
	}
	return h.text[key[:max(0, strings.LastIndexByte(key, '.'))]]
}

func (h helps) rank(key string) int {
	if n, ok := h.order[general(key)]; ok {
		return n
	}
	return len(h.order) + 1
}
