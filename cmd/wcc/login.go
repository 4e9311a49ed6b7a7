package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/term"

	"widecloud/api"
	"widecloud/internal/config"
)

const defaultServer = "http://[::1]:7646"

// contexts is the file ~/.config/wcc/config.toml.
type contexts struct {
	Current  string                   `toml:"current"`
	Contexts map[string]clientContext `toml:"contexts"`
}

type clientContext struct {
	Server string `toml:"server"`
	Token  string `toml:"token"`
	CA     string `toml:"ca,omitempty"`
}

// contextsPath is WCC_CONFIG, or config.toml in the user's configuration directory.
func contextsPath() (string, error) {
	if p := os.Getenv("WCC_CONFIG"); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration directory: %w", err)
	}
	return filepath.Join(dir, "wcc", "config.toml"), nil
}

func readContexts() (contexts, error) {
	c := contexts{Contexts: map[string]clientContext{}}
	path, err := contextsPath()
	if err != nil {
		return c, err
	}
	err = config.Load(path, &c)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// write replaces the file; only its owner may read the tokens.
func (c contexts) write() error {
	path, err := contextsPath()
	if err != nil {
		return err
	}
	b, err := toml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the contexts: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the configuration directory: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".config-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write the contexts: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write the contexts: %w", err)
	}
	return nil
}

// settings is which controller to speak to: flags and environment first, then the context.
func (a *app) settings() (clientContext, error) {
	s := clientContext{Server: a.cli.Server, Token: a.cli.Token, CA: a.cli.CA}
	file, err := readContexts()
	if err != nil {
		return s, err
	}
	name := cmp.Or(a.cli.Context, file.Current)
	c, ok := file.Contexts[name]
	if !ok && a.cli.Context != "" {
		return s, usagef("no context named %s; wcc login %s makes it", name, name)
	}
	// A context's token is for its own server, and goes nowhere else.
	if s.Server == "" || s.Server == c.Server {
		s = clientContext{cmp.Or(s.Server, c.Server), cmp.Or(s.Token, c.Token), cmp.Or(s.CA, c.CA)}
	}
	s.Server = cmp.Or(s.Server, defaultServer)
	return s, nil
}

// httpClient trusts the CA of the settings besides the system's.
func (s clientContext) httpClient() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if s.CA != "" {
		pem, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, usagef("read the CA: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, usagef("no certificate in %s", s.CA)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: t}, nil
}

// client is the client of the controller in the settings.
func (a *app) client() (*api.Client, error) {
	if a.made != nil {
		return a.made, nil
	}
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	if s.Token == "" {
		return nil, usagef("no token for %s: use wcc login, WCC_TOKEN or --token", s.Server)
	}
	if a.made, err = s.client(); err != nil {
		return nil, err
	}
	// Whatever does not heed the first Ctrl-C, such as a read of standard input, is ended by the second.
	context.AfterFunc(a.Context, func() { signal.Reset(os.Interrupt, syscall.SIGTERM) })
	return a.made, nil
}

// client is a client with the settings.
func (s clientContext) client() (*api.Client, error) {
	h, err := s.httpClient()
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient(s.Server, s.Token, h)
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

type loginCmd struct {
	Name  string `arg:"" help:"Name of the context: the site's, say."`
	First string `help:"File with the token of the site's first login (DATA_DIR/first-admin-token), or - for standard input: it is exchanged for a lasting token." placeholder:"FILE"`
}

// Run keeps --server, --token and --ca under a name, after the controller has taken the token.
func (c *loginCmd) Run(a *app) error {
	file, err := readContexts()
	if err != nil {
		return err
	}
	old := file.Contexts[c.Name]
	s := clientContext{cmp.Or(a.cli.Server, old.Server, defaultServer), a.cli.Token, cmp.Or(a.cli.CA, old.CA)}
	if s.CA != "" {
		if s.CA, err = filepath.Abs(s.CA); err != nil {
			return err
		}
	}
	switch {
	case c.First != "":
		if err := file.write(); err != nil { // before the token is used: it cannot be used again
			return err
		}
		s.Token, err = a.exchange(s, c.First)
	case s.Token == "":
		s.Token, err = a.askToken()
	}
	if err != nil {
		return err
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	if _, _, err := api.List[api.Site](a, client); err != nil {
		return fmt.Errorf("try the token: %w", err)
	}
	file.Contexts[c.Name], file.Current = s, c.Name
	if err := file.write(); err != nil {
		return err
	}
	a.out.printf("context %s: %s\n", c.Name, s.Server)
	return nil
}

// askToken reads a token from standard input, which on a terminal does not show it. Ctrl-C ends it.
func (a *app) askToken() (string, error) {
	a.err.printf("token: ")
	read := func() (string, error) { return bufio.NewReader(io.LimitReader(a.in, maxToken)).ReadString('\n') }
	if f, ok := a.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fd := int(f.Fd())
		if state, err := term.GetState(fd); err == nil {
			defer func() { _ = term.Restore(fd, state) }()
		}
		defer a.err.printf("\n")
		read = func() (string, error) {
			b, err := term.ReadPassword(fd)
			return string(b), err
		}
	}
	type answer struct {
		line string
		err  error
	}
	given := make(chan answer, 1)
	go func() { // ends with the process at the latest: a read of standard input cannot be broken off
		line, err := read()
		given <- answer{line, err}
	}()
	select {
	case <-a.Done():
		return "", fmt.Errorf("read the token: %w", cause(a))
	case g := <-given:
		if line := strings.TrimSpace(g.line); line != "" {
			return line, nil
		}
		return "", usagef("no token was given: %w", cmp.Or(g.err, errors.New("the line is empty")))
	}
}

// maxToken is the length of a line in which a token is looked for.
const maxToken = 1 << 10

type contextsGroup struct {
	List   contextsListCmd   `cmd:"" help:"List the contexts."`
	Use    contextsUseCmd    `cmd:"" help:"Make a context the one that is used."`
	Delete contextsDeleteCmd `cmd:"" help:"Forget a context and its token."`
}

type contextsListCmd struct{}

func (contextsListCmd) Run(a *app) error {
	file, err := readContexts()
	if err != nil {
		return err
	}
	rows := [][]string{{"NAME", "SERVER", "CURRENT"}}
	for _, name := range slices.Sorted(maps.Keys(file.Contexts)) {
		current := ""
		if name == file.Current {
			current = "*"
		}
		rows = append(rows, []string{name, file.Contexts[name].Server, current})
	}
	return a.out.table(rows)
}

type contextsUseCmd struct {
	Name string `arg:""`
}

func (c *contextsUseCmd) Run(*app) error {
	file, err := readContexts()
	if err != nil {
		return err
	}
	if _, ok := file.Contexts[c.Name]; !ok {
		return usagef("no context named %s", c.Name)
	}
	file.Current = c.Name
	return file.write()
}

type contextsDeleteCmd struct {
	Name string `arg:""`
}

func (c *contextsDeleteCmd) Run(*app) error {
	file, err := readContexts()
	if err != nil {
		return err
	}
	if _, ok := file.Contexts[c.Name]; !ok {
		return usagef("no context named %s", c.Name)
	}
	delete(file.Contexts, c.Name)
	if file.Current == c.Name {
		file.Current = ""
	}
	return file.write()
}
