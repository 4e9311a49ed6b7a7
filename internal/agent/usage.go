package agent

import (
	"context"
	"time"

	"widecloud/api"
	"widecloud/internal/agent/usage"
	"widecloud/internal/wire"
)

// usageLoop keeps what the VMs use until ctx ends.
func (a *Agent) usageLoop(ctx context.Context) {
	tick := time.NewTicker(usage.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		all, err := a.o.Hypervisor.Usage(ctx)
		if err != nil {
			if ctx.Err() == nil {
				a.log.Debug("ask what VMs use", "err", err)
			}
			continue
		}
		a.used.Take(time.Now(), all)
	}
}

// Usage tells what a VM has used lately.
func (a *Agent) Usage(_ context.Context, c wire.UsageCall) (api.Usage, error) {
	u, ok := a.used.Of(c.VM)
	if !ok {
		return u, api.Errorf(api.CodeNotFound, "nothing is known yet of what VM %s uses", c.VM)
	}
	return u, nil
}
