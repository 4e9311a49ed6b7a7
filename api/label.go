package api

import (
	"strings"
)

// The limits of an object's labels.
const (
	MaxLabels     = 32 // of one object
	MaxLabelBytes = 63 // of a key, and of a value
)

// CheckLabel judges a label: CodeInvalid, without a field. A key is letters, digits and inner "-", "_", "." and "/"; a
// value may also have ":", "@" and "+" inside, or be empty.
func CheckLabel(key, value string) error {
	if err := checkLabelKey(key); err != nil {
		return err
	}
	if err := checkLabelWord(value, "-_./:@+"); value != "" && err != "" {
		return Errorf(CodeInvalid, "the value %.80q of the label %s %s", value, key, err)
	}
	return nil
}

func checkLabelKey(key string) error {
	if err := checkLabelWord(key, "-_./"); err != "" {
		return Errorf(CodeInvalid, "the label's key %.80q %s", key, err)
	}
	return nil
}

// checkLabelWord says what is wrong with a key or value; "" when nothing is.
func checkLabelWord(s, inner string) string {
	if s == "" {
		return "is empty"
	}
	if len(s) > MaxLabelBytes {
		return "is too long: at most 63 bytes are possible"
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && i < len(s)-1 && strings.IndexByte(inner, c) >= 0:
		default:
			return "has other characters than letters, digits and inner " + strings.Join(strings.Split(inner, ""), " ")
		}
	}
	return ""
}

// LabelOp is how a LabelTerm compares.
type LabelOp string

// The comparisons of labels.
const (
	LabelEqual    LabelOp = "="  // the label is there and has the value
	LabelNotEqual LabelOp = "!=" // the label has another value, or is not there
	LabelThere    LabelOp = ""   // the label is there, whatever its value
	LabelMissing  LabelOp = "!"  // the label is not there
)

// LabelTerm is one condition on an object's labels.
type LabelTerm struct {
	Key   string
	Op    LabelOp
	Value string // of LabelEqual and LabelNotEqual
}

// String is the term as it is written: app=web, app!=web, app, !app.
func (t LabelTerm) String() string {
	if t.Op == LabelMissing {
		return "!" + t.Key
	}
	return t.Key + string(t.Op) + t.Value
}

// Matches tells whether labels fulfil the term.
func (t LabelTerm) Matches(labels map[string]string) bool {
	value, there := labels[t.Key]
	switch t.Op {
	case LabelEqual:
		return there && value == t.Value
	case LabelNotEqual:
		return !there || value != t.Value
	case LabelMissing:
		return !there
	}
	return there
}

// ParseLabelTerms reads conditions as they are written: each text is one, or several with commas between them.
// CodeInvalid says what is wrong, with the field "label".
func ParseLabelTerms(texts ...string) (terms []LabelTerm, err error) {
	for _, text := range texts {
		for _, s := range strings.Split(text, ",") {
			t := parseLabelTerm(strings.TrimSpace(s))
			if err := CheckLabel(t.Key, t.Value); err != nil {
				return nil, Invalidf("label", "%q is not KEY=VALUE, KEY!=VALUE, KEY or !KEY: %v", s, err)
			}
			terms = append(terms, t)
		}
	}
	return terms, nil
}

func parseLabelTerm(s string) LabelTerm {
	if key, ok := strings.CutPrefix(s, "!"); ok {
		return LabelTerm{Key: key, Op: LabelMissing}
	}
	if key, value, ok := strings.Cut(s, "!="); ok {
		return LabelTerm{Key: key, Op: LabelNotEqual, Value: value}
	}
	if key, value, ok := strings.Cut(s, "="); ok {
		return LabelTerm{Key: key, Op: LabelEqual, Value: value}
	}
	return LabelTerm{Key: s}
}
