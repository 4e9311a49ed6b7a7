package api

// Login is the body of POST /v1/session, with which a browser logs in.
type Login struct {
	Token string `json:"token"` // of the user
}

// Session says who a user is, and where.
type Session struct {
	User    string `json:"user"`
	Owner   string `json:"owner,omitempty"`
	Admin   bool   `json:"admin,omitempty"`
	Site    string `json:"site"`
	Version string `json:"version"` // of the controller
}
