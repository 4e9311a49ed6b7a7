package libvirt

import (
	"context"
	"fmt"
	"strings"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"widecloud/internal/hyper"
)

// usageStats are the groups of libvirt's statistics that Usage wants.
const usageStats = golibvirt.DomainStatsCPUTotal | golibvirt.DomainStatsBalloon | golibvirt.DomainStatsInterface | golibvirt.DomainStatsBlock

// usageFlags leave out what QEMU would have to be asked for while something else is under way with it, as a migration is.
const usageFlags = golibvirt.ConnectGetAllDomainsStatsRunning | golibvirt.ConnectGetAllDomainsStatsNowait

// Usage asks for the statistics of all domains at once.
func (d *Driver) Usage(ctx context.Context) ([]hyper.Usage, error) {
	var all []hyper.Usage
	err := d.do(ctx, func(l *golibvirt.Libvirt) error {
		records, err := l.ConnectGetAllDomainStats(nil, uint32(usageStats), uint32(usageFlags))
		if err != nil {
			return err
		}
		for _, r := range records {
			if !strings.HasPrefix(r.Dom.Name, namePrefix) {
				continue
			}
			if u, ok := usageOf(r); ok {
				all = append(all, u)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask what domains use: %w", err)
	}
	return all, nil
}

// usageOf reads a domain's statistics (libvirt-domain.h, virConnectGetAllDomainStats). They are not there as a whole while
// the domain cannot be asked.
func usageOf(r golibvirt.DomainStatsRecord) (u hyper.Usage, ok bool) {
	u.VM = uid(r.Dom.UUID)
	blocks := false
	for _, p := range r.Params {
		v := number(p.Value)
		switch {
		case p.Field == "cpu.time":
			u.CPU, ok = time.Duration(v), true // ns
		case p.Field == "balloon.rss":
			u.Memory = v << 10
		case strings.HasPrefix(p.Field, "block.") && strings.HasSuffix(p.Field, ".rd.bytes"):
			u.DiskRead += v
			blocks = true
		case strings.HasPrefix(p.Field, "block.") && strings.HasSuffix(p.Field, ".wr.bytes"):
			u.DiskWritten += v
		case strings.HasPrefix(p.Field, "block.") && strings.HasSuffix(p.Field, ".rd.reqs"):
			u.Reads += v
		case strings.HasPrefix(p.Field, "block.") && strings.HasSuffix(p.Field, ".wr.reqs"):
			u.Writes += v
		case strings.HasPrefix(p.Field, "net.") && strings.HasSuffix(p.Field, ".rx.bytes"):
			u.Received += v
		case strings.HasPrefix(p.Field, "net.") && strings.HasSuffix(p.Field, ".tx.bytes"):
			u.Sent += v
		}
	}
	return u, ok && blocks
}

// number is a parameter's value, if it is a whole number.
func number(v golibvirt.TypedParamValue) int64 {
	switch n := v.I.(type) {
	case int32:
		return int64(n)
	case uint32:
		return int64(n)
	case int64:
		return n
	case uint64:
		return int64(n)
	}
	return 0
}
