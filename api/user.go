package api

// KindUser is the kind of User.
const KindUser Kind = "users"

var _ = describe[User](Noun{
	Rank: 40, Help: "Users and their tokens.",
	Created: true, Changed: true, Deleted: true, Owned: true, See: ItsUser,
})

// User is a person or a program with tokens.
type User struct {
	Meta
	Spec   UserSpec   `json:"spec"`
	Status UserStatus `json:"status"`
}

// UserSpec says what a user may do. A user without Admin sees and changes what its Owner owns.
type UserSpec struct {
	Admin bool `json:"admin,omitempty"`
}

// UserStatus lists the user's tokens by their ids; the tokens themselves are shown once, when made.
type UserStatus struct {
	Tokens []string `json:"tokens,omitempty"`
}

// Kind is KindUser.
func (*User) Kind() Kind { return KindUser }
