package bolt_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/store/storetest"
)

func open(dir string, o storetest.Options) (store.Store, error) {
	return bolt.Open(bolt.Options{
		Path:    filepath.Join(dir, "site.db"),
		History: o.History,
		Buffer:  o.Buffer,
		Reserve: o.Reserve,
		NoSync:  o.NoSync,
	})
}

func TestMain(m *testing.M) {
	if path := os.Getenv(faultPath); path != "" {
		write := writeUnderFault
		if os.Getenv(faultGroup) != "" {
			write = writeGroupUnderFault
		}
		if err := write(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := storetest.Main(m, open)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func TestConformance(t *testing.T) { storetest.Run(t, open, storetest.OneByOne) }

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	held, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, "held.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	newer := filepath.Join(dir, "newer.db")
	db, err := bbolt.Open(newer, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("meta"))
		if err != nil {
			return err
		}
		return b.Put([]byte("format"), []byte("99"))
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	for _, tc := range []struct {
		name, path, want string
	}{
		{"empty", "", "store.path: is empty"},
		{"held", filepath.Join(dir, "held.db"), "is in use by another process"},
		{"no directory", filepath.Join(dir, "no", "such.db"), "no such file or directory"},
		{"a directory", dir, "is a directory"},
		{"another file", write("text", strings.Repeat("not a store\n", 2000)), "is not a store"},
		{"a newer format", newer, `has format "99"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := bolt.Open(bolt.Options{Path: tc.path})
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.HasPrefix(err.Error(), "store.path: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %q, want one of store.path with %q", err, tc.want)
			}
		})
	}
	if _, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, "new.db"), Reserve: -1}); err == nil || err.Error() != "store.reserve: -1 is negative" {
		t.Errorf("a negative reserve: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, "held.db"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v: it holds secrets", info.Mode())
	}
}

// The store works in a synctest bubble: a fault test at scale runs on its clock.
func TestBubble(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, "site.db"), NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		put := func(v string) {
			if _, err := s.Update(ctx, func(tx store.Tx) error { return tx.Put("a", []byte(v)) }); err != nil {
				t.Error(err)
			}
		}
		put("0")
		w, err := s.Watch(ctx, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for range 3 {
				time.Sleep(time.Hour)
				put(time.Now().String())
			}
		}()
		for want := int64(1); want <= 4; want++ {
			if cs := <-w.C(); cs[0].Revision != want {
				t.Fatalf("revision is %d, want %d", cs[0].Revision, want)
			}
		}
		cancel()
		if _, ok := <-w.C(); ok || w.Err() != nil {
			t.Errorf("watch went on after its context's end, or has error %v", w.Err())
		}
	})
}
