package siit

import (
	"fmt"
	"net/http"
	"os"

	"widecloud/internal/lab/stream"
)

// serverName is the argv[0] that turns this program into a server's web server
// inside a node. As for a node's first process, an init function sees to it.
const serverName = "widecloud-lab-server"

func init() {
	if len(os.Args) == 2 && os.Args[0] == serverName {
		os.Exit(serverMain(os.Args[1]))
	}
}

// serverMain answers as a guest of image tiny does, as far as both have it: a
// page with its name, and the endless stream.
func serverMain(name string) int {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "server %s\nclient %s\n", name, r.RemoteAddr)
	})
	mux.HandleFunc("GET /stream", stream.Serve)
	err := (&http.Server{Addr: ":80", Handler: mux}).ListenAndServe()
	fmt.Fprintln(os.Stderr, err)
	return 1
}
