package api

import (
	"context"
	"net/http"
	"time"
)

// Usage is what a VM has used, as its host has seen it. It begins where the VM's copy came to that host, or where the
// host's agent was started.
type Usage struct {
	Recent []Sample `json:"recent"` // of the last half hour, one for every 10 s
	Day    []Sample `json:"day"`    // of the last day, one for every 5 min
}

// Sample is what a VM used in an interval.
type Sample struct {
	At     time.Time `json:"at"`           // the interval's end
	CPU    float64   `json:"cpu"`          // cores in use, the mean
	Memory int64     `json:"memory_bytes"` // what it held of its host's memory, at the end
	// Bytes per second, the mean: of all disks, and of all network cards as the guest sees them.
	DiskRead    float64 `json:"disk_read"`
	DiskWritten float64 `json:"disk_written"`
	Received    float64 `json:"received"`
	Sent        float64 `json:"sent"`
	// Requests per second to all disks, the mean. An agent of an earlier release does not count them.
	Reads  float64 `json:"reads,omitempty" since:"2"`
	Writes float64 `json:"writes,omitempty" since:"2"`
}

// Usage is what a VM has used lately.
func (c *Client) Usage(ctx context.Context, vm string) (*Usage, error) {
	return call[Usage](ctx, c, http.MethodGet, path(string(KindVM), vm, "usage"), nil)
}
