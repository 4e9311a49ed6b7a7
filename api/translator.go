package api

// KindTranslator is the kind of Translator.
const KindTranslator Kind = "translators"

var _ = describe[Translator](Noun{
	Rank: 140, Help: "Translators of service addresses.",
	See:    Everybody,
	States: []string{"running", "stopped"},
})

// Translator is a map646 node as its agent reports it.
type Translator struct {
	Meta
	Spec   TranslatorSpec   `json:"spec"`
	Status TranslatorStatus `json:"status"`
}

// TranslatorSpec names the host.
type TranslatorSpec struct {
	Host string `json:"host"`
}

// TranslatorStatus is what is seen of a translator.
type TranslatorStatus struct {
	Running  bool   `json:"running"`
	Mappings int    `json:"mappings"`
	Message  string `json:"message,omitempty"`
}

// Kind is KindTranslator.
func (*Translator) Kind() Kind { return KindTranslator }

func (t *Translator) facets() facets {
	return facets{hosts: []string{t.Spec.Host}, states: either(t.Status.Running, "running", "stopped")}
}
