package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time as Go writes it: "300ms", "5s", "1h30m".
type Duration struct{ time.Duration }

// UnmarshalText reads a duration; negative ones are refused.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf(`is no length of time such as "300ms", "5s" or "1h30m"`)
	}
	if v < 0 {
		return fmt.Errorf("is negative")
	}
	d.Duration = v
	return nil
}

// Bytes is an amount of bytes: "512", "64KiB", "10MiB", "20GiB", "1TiB".
type Bytes int64

// UnmarshalText reads an amount of bytes.
func (v *Bytes) UnmarshalText(b []byte) error {
	number, shift := string(b), 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, shift = strings.TrimSpace(n), 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf(`is no amount of bytes such as "512", "64KiB" or "20GiB"`)
	}
	*v = Bytes(n << shift)
	return nil
}
