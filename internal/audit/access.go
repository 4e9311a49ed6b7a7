package audit

import (
	"widecloud/api"
	"widecloud/internal/access"
)

// Sees tells whether an actor may read an entry: an admin all of them, others what concerns their organisation's objects.
func Sees(by access.Actor, e api.AuditEntry) bool {
	return by.Admin || by.Owner != "" && e.Owner == by.Owner
}

// Shown is an entry as an actor may read it: from where others came, and by which token, is for admins.
func Shown(by access.Actor, e api.AuditEntry) api.AuditEntry {
	if !by.Admin && e.Actor != by.User {
		e.Address, e.Token = "", ""
	}
	return e
}
