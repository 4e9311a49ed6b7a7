// Package serve is a site's public HTTP API: authentication, REST with an OpenAPI 3.1 description made from the Go types
// of package api, watches by Server-Sent Events, and serial consoles by websocket. It holds no state of its own and
// decides nothing: every request becomes one call of a [Controller], which also judges what the principal may do.
//
// Invariants:
//   - every request but those for /openapi.json, /healthz and (when metrics are served) /metrics is
//     authenticated before anything else of it is looked at;
//   - every error that a client sees is an api.Error in JSON with the status of its code, also for malformed requests,
//     unknown paths and panics;
//   - a request that does not fit the schema never reaches the Controller;
//   - a token is neither logged nor counted, and metrics are labelled by route, never by a client's words;
//   - a watch gives each change once per connection, in the order of revisions, and a client resumes it by the last id.
package serve
