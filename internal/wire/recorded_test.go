package wire_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"hash/fnv"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/internal/wire"
)

var record = flag.Bool("record", false, "write the recordings of this release's level anew")

// messages are all messages of the private protocol and the bodies of its documents.
var messages = []any{
	wire.Empty{}, wire.VMOrder{}, wire.NICOrder{}, wire.SeedOrder{}, wire.NetworkOrder{}, wire.EndpointOrder{}, wire.Mapping{},
	wire.HostState{}, wire.StateChange{}, wire.StateEntry{}, wire.VMReport{}, wire.DiskOrder{}, wire.VolumeOrder{}, wire.VolumeReport{}, wire.MachineReport{}, wire.DiskReport{}, wire.SeenAddress{}, wire.HostReport{}, wire.TranslatorReport{}, wire.RefusedMapping{}, wire.OutcomeCount{}, wire.ServiceTraffic{}, wire.VMUsage{}, wire.RebootCall{}, wire.UsageCall{}, wire.DiskHeader{},
	wire.ConsoleHeader{}, wire.ImageHeader{}, wire.ChannelHeader{}, wire.MigrateCall{}, wire.MigrateOffer{}, wire.PrepareCall{},
	wire.MigrateAnswer{}, wire.PerformCall{}, wire.MigrateResult{}, wire.FinishCall{}, wire.ClaimCall{}, wire.CheckAnswer{},
	wire.Claim{}, wire.GuestOrder{}, wire.GuestSize{}, wire.GuestReport{}, wire.Refusal{}, wire.ViewsAnswer{}, wire.Offers{},
	wire.Views{}, wire.OfferBody{}, wire.LoanRequest{}, wire.LoanRenew{}, wire.LoanBody{}, wire.NetworkView{}, wire.Envelope{},
	wire.Hello{}, wire.JoinMessage{}, wire.JoinAnswer{},
}

func recordings(level int) string { return filepath.Join("testdata", fmt.Sprintf("release-%d", level)) }

// TestRecorded holds today's messages against those that this release and the ones before it have recorded. A difference in
// an older recording means that the two releases do not understand each other: a field was renamed, has another form, or is
// new and has no tag since:"N". Older recordings are never written again.
func TestRecorded(t *testing.T) {
	for level := range wire.Level + 1 {
		dir := recordings(level)
		if *record && level == wire.Level {
			writeRecordings(t, dir)
		}
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no recordings of level %d in %s (%v)", level, dir, err)
		}
		for _, file := range files {
			t.Run(file, func(t *testing.T) { compareRecording(t, level, file) })
		}
	}
}

func compareRecording(t *testing.T, level int, file string) {
	name := strings.TrimSuffix(filepath.Base(file), ".json")
	i := slices.IndexFunc(messages, func(m any) bool { return nameOf(m) == name })
	if i < 0 {
		t.Fatalf("no message is called %s any more; releases of level %d send it", name, level)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := reflect.New(reflect.TypeOf(messages[i]))
	if err := wire.DecodeStrict(text, got.Interface()); err != nil {
		t.Fatal(err)
	}
	want := wire.ForLevel(filled(messages[i]), level)
	if d := cmp.Diff(want, got.Elem().Interface(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Errorf("the recording is not what this release sends at level %d (-sent +recorded):\n%s", level, d)
	}
}

// TestRecordedAll fails for a message that is in no recording of this release, or not in the list above.
func TestRecordedAll(t *testing.T) {
	parsed, err := parser.ParseFile(token.NewFileSet(), "messages.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		switch spec.Type.(type) {
		case *ast.StructType, *ast.SelectorExpr: // one of another package
		default:
			return false
		}
		if !slices.ContainsFunc(messages, func(m any) bool { return nameOf(m) == spec.Name.Name }) {
			t.Errorf("message %s is not in the list of messages", spec.Name.Name)
		}
		return false
	})
	for _, m := range messages {
		if _, err := os.Stat(filepath.Join(recordings(wire.Level), nameOf(m)+".json")); err != nil {
			t.Errorf("message %s is not recorded: go test ./internal/wire -run TestRecorded -record (%v)", nameOf(m), err)
		}
	}
}

// nameOf is a message's name in wire.
func nameOf(message any) string {
	switch message.(type) {
	case wire.NetworkOrder:
		return "NetworkOrder"
	case wire.NetworkView:
		return "NetworkView"
	case wire.EndpointOrder:
		return "EndpointOrder"
	}
	return reflect.TypeOf(message).Name()
}

func writeRecordings(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetIndent("", "  ")
		if err := enc.Encode(filled(m)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, nameOf(m)+".json"), text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// filled is a message with a value in every field. A value depends on nothing but its field's name and the names above it, so
// that a new field changes no other value.
func filled(message any) any {
	v := reflect.New(reflect.TypeOf(message)).Elem()
	fill(v, nameOf(message))
	return v.Interface()
}

func fill(v reflect.Value, path string) {
	h := fnv.New32a()
	h.Write([]byte(path))
	n := h.Sum32()
	switch x := v.Addr().Interface().(type) {
	case *netip.Addr:
		*x = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(n)})
		return
	case *netip.Prefix:
		*x = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(n)}), 64)
		return
	case *time.Time:
		*x = time.Date(2026, 11, 30, 12, 0, int(n%60), 0, time.UTC)
		return
	case *json.RawMessage:
		*x = json.RawMessage(`"` + path + `"`)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Anonymous { // its fields are the struct's own
				fill(v.Field(i), path)
			} else {
				fill(v.Field(i), path+"."+f.Name)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), path)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), path)
	case reflect.String:
		v.SetString(path)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n%1000) + 1)
	case reflect.Uint64, reflect.Uint32, reflect.Uint8:
		v.SetUint(uint64(n%200) + 1)
	case reflect.Float64:
		v.SetFloat(float64(n%1000) + 0.5)
	default:
		panic(fmt.Sprintf("%s: fill does not know a %s", path, v.Type()))
	}
}
