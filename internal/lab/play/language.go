package play

import (
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/topic/browser"
	"widecloud/internal/lab/topic/fault"
	"widecloud/internal/lab/topic/flow"
	"widecloud/internal/lab/topic/koshien"
	"widecloud/internal/lab/topic/server"
	"widecloud/internal/lab/topic/siit"
	"widecloud/internal/lab/topic/site"
	"widecloud/internal/lab/topic/story"
	"widecloud/internal/lab/topic/vm"
)

// Language is all that scripts can say.
var Language = script.NewRegistry(
	site.Topic,
	vm.Topic,
	siit.Topic,
	server.Topic(),
	flow.Topic,
	koshien.Topic,
	browser.Topic,
	fault.Topic,
	story.Topic,
)

// Parse understands a script, or returns every fault in it at once, each a
// *script.Error, joined.
func Parse(file, text string) (*script.Script, error) { return Language.Parse(file, text) }
