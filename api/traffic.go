package api

import (
	"context"
	"net/http"
	"time"
)

// Traffic is what this site's translators have carried for a service address, or one of them altogether.
type Traffic struct {
	Translators []TranslatorTraffic `json:"translators"`
}

// TranslatorTraffic is what one translator has carried. In is towards the VMs.
type TranslatorTraffic struct {
	Translator string    `json:"translator"`
	At         time.Time `json:"at"` // when it was told
	PacketsIn  int64     `json:"packets_in"`
	BytesIn    int64     `json:"bytes_in"`
	PacketsOut int64     `json:"packets_out"`
	BytesOut   int64     `json:"bytes_out"`
	// The mean of the last seconds: bytes per second.
	RateIn  float64 `json:"bytes_in_per_second"`
	RateOut float64 `json:"bytes_out_per_second"`
	// Of a translator: all packets by what became of them, and the addresses that have carried the most.
	Outcomes []Outcome        `json:"outcomes,omitempty"`
	Busiest  []AddressTraffic `json:"busiest,omitempty"`
}

// Outcome is how many packets a translator has handled in one way ("4to6", "no_mapping", …), since it was started.
type Outcome struct {
	Outcome string `json:"outcome"`
	Packets int64  `json:"packets"`
	Bytes   int64  `json:"bytes"`
}

// AddressTraffic is what a translator has carried for one service address.
type AddressTraffic struct {
	Address    string  `json:"address"`
	PacketsIn  int64   `json:"packets_in"`
	BytesIn    int64   `json:"bytes_in"`
	PacketsOut int64   `json:"packets_out"`
	BytesOut   int64   `json:"bytes_out"`
	RateIn     float64 `json:"bytes_in_per_second"`
	RateOut    float64 `json:"bytes_out_per_second"`
}

// AddressTraffic is what this site's translators have carried for a service address.
func (c *Client) AddressTraffic(ctx context.Context, name string) (*Traffic, error) {
	return call[Traffic](ctx, c, http.MethodGet, path(string(KindAddress), name, "traffic"), nil)
}

// TranslatorTraffic is what a translator has carried.
func (c *Client) TranslatorTraffic(ctx context.Context, name string) (*Traffic, error) {
	return call[Traffic](ctx, c, http.MethodGet, path(string(KindTranslator), name, "traffic"), nil)
}
