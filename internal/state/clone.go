package state

import (
	"net/netip"
	"reflect"
	"sync"
	"time"
)

// Clone copies an object deeply: what its pointers, slices and maps lead to is its own.
func Clone[T any](o *T) *T { return Copy(o).(*T) }

// Copy is Clone for a pointer whose type is not known.
func Copy(o any) any {
	from := reflect.ValueOf(o).Elem()
	out := reflect.New(from.Type())
	copyInto(out.Elem(), from)
	return out.Interface()
}

// values are types with pointers inside that never change.
var values = map[reflect.Type]bool{
	reflect.TypeFor[time.Time](): true, reflect.TypeFor[netip.Addr](): true, reflect.TypeFor[netip.Prefix](): true, reflect.TypeFor[netip.AddrPort](): true,
}

func copyInto(to, from reflect.Value) {
	to.Set(from)
	switch from.Kind() {
	case reflect.Pointer:
		if !from.IsNil() {
			to.Set(reflect.New(from.Type().Elem()))
			copyInto(to.Elem(), from.Elem())
		}
	case reflect.Slice:
		if !from.IsNil() {
			to.Set(reflect.MakeSlice(from.Type(), from.Len(), from.Len()))
			reflect.Copy(to, from)
			copyElements(to, from)
		}
	case reflect.Array:
		copyElements(to, from)
	case reflect.Map:
		if !from.IsNil() {
			to.Set(reflect.MakeMapWithSize(from.Type(), from.Len()))
			for it := from.MapRange(); it.Next(); {
				v := reflect.New(from.Type().Elem()).Elem()
				copyInto(v, it.Value())
				to.SetMapIndex(it.Key(), v)
			}
		}
	case reflect.Struct:
		for _, i := range shared(from.Type()) {
			copyInto(to.Field(i), from.Field(i))
		}
	}
}

func copyElements(to, from reflect.Value) {
	if refers(from.Type().Elem()) {
		for i := range from.Len() {
			copyInto(to.Index(i), from.Index(i))
		}
	}
}

// refers tells whether a value of a type may share memory with its copy.
func refers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return true
	case reflect.Array:
		return refers(t.Elem())
	case reflect.Struct:
		return len(shared(t)) > 0
	}
	return false
}

var sharedFields sync.Map // reflect.Type -> []int

// shared are the exported fields of a struct that may share memory with their copies.
func shared(t reflect.Type) []int {
	if have, ok := sharedFields.Load(t); ok {
		return have.([]int)
	}
	var out []int
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() && !values[t] && refers(f.Type) {
			out = append(out, i)
		}
	}
	sharedFields.Store(t, out)
	return out
}
