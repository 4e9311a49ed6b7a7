package api

import (
	"context"
	"net/http"
)

// Settings are a controller's configuration as it is in force.
type Settings struct {
	Items []Setting `json:"items"` // in the order of the reference configuration
}

// Setting is one field of a configuration. It has no secret: those stand in files of their own.
type Setting struct {
	Key     string        `json:"key"`   // as in the file: api.listen
	Value   string        `json:"value"` // as it would be written there
	Source  SettingSource `json:"source"`
	Default string        `json:"default,omitempty"` // as it would be written; left out: there is none
	Help    string        `json:"help,omitempty"`    // what the reference configuration says of it
	Where   string        `json:"where,omitempty"`   // FILE or FILE:LINE where it is changed; the flag, of what a flag sets
}

// SettingSource says from where a setting has its value.
type SettingSource string

// The sources of settings.
const (
	FromDefault SettingSource = "default"
	FromFile    SettingSource = "file"
	FromFlag    SettingSource = "flag"
)

// Settings are the controller's configuration as it is in force. For admins.
func (c *Client) Settings(ctx context.Context) (*Settings, error) {
	return call[Settings](ctx, c, http.MethodGet, path("settings"), nil)
}
