// Package serve is a site's public HTTP API: authentication, REST with an OpenAPI 3.1 description made from the Go types
// of package api, watches by Server-Sent Events, and serial consoles by websocket. It keeps no objects and decides
// nothing about them: every request becomes one call of a [Controller], which also judges what the principal may do.
//
// Nobody holds more of the server than he should: connections are limited per source (an IPv4 address, an IPv6 /64),
// everything else per user, and everything that a client can delay has a deadline. Who is over a limit hears it as
// api.CodeTooMany, with the time after which to try again.
//
// Invariants:
//   - every request but those for /openapi.json, /healthz, (when metrics are served) /metrics, the web page's files and a
//     browser's login is authenticated before anything else of it is looked at, its body included; a login's body has
//     4 KiB at most;
//   - a browser's cookie is a token that was made for its session; by it nothing is changed, and no console is opened, for a
//     page of another origin;
//   - an answer that needs no body does not wait for it;
//   - every error that a client sees is an api.Error in JSON with the status of its code, also for malformed requests,
//     unknown paths and panics;
//   - a request that does not fit the schema never reaches the Controller;
//   - a token is neither logged nor counted, and metrics are labelled by route, never by a client's words;
//   - a watch gives each change once per connection, in the order of revisions, and a client resumes it by the last id;
//   - a watch or console ends at the latest one heartbeat after its token has lost its power;
//   - what a stranger does in any number neither grows a table nor fills the log.
package serve
