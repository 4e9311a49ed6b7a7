package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/config"
)

// mebibytes is a size in MiB, the API's unit of memory: 512MiB, 2GiB; a bare number is MiB.
type mebibytes int

// UnmarshalText reads a size that is a whole number of MiB.
func (m *mebibytes) UnmarshalText(b []byte) error {
	n, err := wholeUnits(b, 1<<20, "MiB")
	*m = mebibytes(n)
	return err
}

// gibibytes is a size in GiB, the API's unit of disks: 20GiB, 1TiB; a bare number is GiB.
type gibibytes int

// UnmarshalText reads a size that is a whole number of GiB.
func (g *gibibytes) UnmarshalText(b []byte) error {
	n, err := wholeUnits(b, 1<<30, "GiB")
	*g = gibibytes(n)
	return err
}

func wholeUnits(b []byte, unit config.Bytes, name string) (int, error) {
	text := string(b)
	if strings.Trim(text, "0123456789") == "" {
		text += name
	}
	var n config.Bytes
	if err := n.UnmarshalText([]byte(text)); err != nil {
		return 0, fmt.Errorf("%q is no size such as 512MiB or 20GiB", b)
	}
	if n%unit != 0 {
		return 0, fmt.Errorf("%s is no whole number of %s", b, name)
	}
	return int(n / unit), nil
}

// resources are the flags of an amount.
type resources struct {
	CPUs      int       `name:"cpus" help:"Virtual CPUs."`
	Memory    mebibytes `help:"Memory: 4GiB." placeholder:"SIZE"`
	Disk      gibibytes `help:"Disk: 20GiB." placeholder:"SIZE"`
	Addresses int       `help:"Public service addresses."`
}

func (r resources) api() api.Resources {
	return api.Resources{CPUs: r.CPUs, MemoryMiB: int(r.Memory), DiskGiB: int(r.Disk), Addresses: r.Addresses}
}

// limits are the flags of a quota: a figure, none to take the limit away, or left out to leave it as it is.
type limits struct {
	CPUs      string `name:"cpus" help:"Virtual CPUs, or none for no limit." placeholder:"N|none"`
	Memory    string `help:"Memory: 4GiB, or none for no limit." placeholder:"SIZE|none"`
	Disk      string `help:"Disk: 20GiB, or none for no limit." placeholder:"SIZE|none"`
	Addresses string `help:"Public service addresses, or none for no limit." placeholder:"N|none"`
}

// change sets the limits of q whose flags are given.
func (l limits) change(q *api.Quota) error {
	for _, f := range []struct {
		flag, text string
		limit      **int
		unit       config.Bytes
		name       string
	}{
		{"--cpus", l.CPUs, &q.CPUs, 0, ""}, {"--memory", l.Memory, &q.MemoryMiB, 1 << 20, "MiB"},
		{"--disk", l.Disk, &q.DiskGiB, 1 << 30, "GiB"}, {"--addresses", l.Addresses, &q.Addresses, 0, ""},
	} {
		if f.text == "" {
			continue
		}
		if f.text == "none" {
			*f.limit = nil
			continue
		}
		n, err := strconv.Atoi(f.text)
		if f.unit != 0 {
			n, err = wholeUnits([]byte(f.text), f.unit, f.name)
		}
		if err != nil || n < 0 {
			return usagef("%s: %q is neither an amount nor none", f.flag, f.text)
		}
		*f.limit = &n
	}
	return nil
}

// withTimeout is a, ended after the timeout; 0 is none.
func (a *app) withTimeout(timeout time.Duration) (*app, context.CancelFunc) {
	b := *a
	if timeout <= 0 {
		return &b, func() {}
	}
	ctx, cancel := context.WithTimeoutCause(a.Context, timeout, fmt.Errorf("not within %v", timeout))
	b.Context = ctx
	return &b, cancel
}
