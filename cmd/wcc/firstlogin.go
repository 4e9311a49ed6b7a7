package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"widecloud/api"
	"widecloud/internal/config"
	"widecloud/internal/control"
	"widecloud/internal/store/bolt"
)

// firstLoginFile is where the token of the first login waits, in the controller's data directory: no log and no terminal
// has it, and it is gone when it was used.
const firstLoginFile = "first-admin-token"

// offerFirstLogin lets the first admin of a new site in, and says to out how.
func offerFirstLogin(ctx context.Context, c *control.Controller, site *config.Site, out screen, log *slog.Logger) error {
	path := filepath.Join(site.DataDir, firstLoginFile)
	waits, err := c.Bootstrap(ctx, func(token string) error { return writeSecret(path, token) })
	if err != nil {
		return err
	}
	if !waits {
		dropFirstLogin(path, log)
		return nil
	}
	sayFirstLogin(out, site.Site, path)
	return nil
}

func sayFirstLogin(out screen, site, path string) {
	out.printf("The token of the first login is in %s. It is good for %v, and once:\n  wcc login %s --first %s\n", path, control.FirstTokenTime, site, path)
}

// dropFirstLogin removes a token that is of no more use.
func dropFirstLogin(path string, log *slog.Logger) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("remove the token of the first login, which is of no more use", "path", path, "err", err)
	}
}

// writeSecret replaces a file by a line that only its owner may read, and syncs it.
func writeSecret(path, line string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(line + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

type siteRecoverCmd struct {
	Config string `help:"The site's configuration, as wcc serve has it." required:"" type:"path" placeholder:"FILE"`
	User   string `default:"admin" help:"The user who is to get in: it is made, or made an admin, if need be."`
}

// Run opens the store of a controller that does not run, and makes an admin who can log in for the first time again.
func (c *siteRecoverCmd) Run(a *app) error {
	site, err := config.LoadSite(c.Config)
	if err != nil {
		return usageError{err}
	}
	path := filepath.Join(site.DataDir, "store.db")
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("there is no site here: %w", err)
	}
	log := site.Log.Logger(a.err.raw).With("site", site.Site)
	st, err := openState(a, bolt.Options{Path: path, Logger: log})
	if err != nil {
		return fmt.Errorf("open the site's store (the controller must be stopped: systemctl stop wcc-serve): %w", err)
	}
	defer st.Close()
	file := filepath.Join(site.DataDir, firstLoginFile)
	if err := control.Recover(a, st, site.Site, c.User, log, func(token string) error { return writeSecret(file, token) }); err != nil {
		return err
	}
	a.out.printf("user %s is an admin; start the controller\n", c.User)
	sayFirstLogin(a.out, site.Site, file)
	return nil
}

// exchange makes a lasting token of that of the first login, which is in a file ("-": standard input).
func (a *app) exchange(s clientContext, file string) (token string, err error) {
	var first []byte
	if file == "-" {
		first, err = io.ReadAll(io.LimitReader(a.in, maxToken))
	} else {
		first, err = os.ReadFile(file)
	}
	if err != nil {
		return "", usagef("--first: %w", err)
	}
	s.Token = strings.TrimSpace(string(first))
	if s.Token == "" {
		return "", usagef("--first: %s is empty", file)
	}
	client, err := s.client()
	if err != nil {
		return "", err
	}
	note := "first login"
	if host, err := os.Hostname(); err == nil {
		note += " at " + host
	}
	made, err := client.NewToken(a, api.OwnTokens, api.TokenRequest{Note: note[:min(len(note), 100)]})
	if err != nil {
		return "", fmt.Errorf("first login: %w", err)
	}
	if file != "-" {
		_ = os.Remove(file) // the controller has, unless it is another machine's copy
	}
	return made.Token, nil
}
