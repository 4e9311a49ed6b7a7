package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"widecloud/api"
	"widecloud/internal/serve"
)

// cli is the tree of commands, but for the groups of the nouns of the API: nounGroups.
type cli struct {
	Server  string `help:"The controller's URL." env:"WCC_SERVER" placeholder:"URL"`
	Token   string `help:"A user's token. Better in WCC_TOKEN or a context: others can see a command line." env:"WCC_TOKEN" placeholder:"TOKEN"`
	CA      string `help:"File with the certificate authority of the controller's certificate." env:"WCC_CA" placeholder:"FILE"`
	Context string `help:"The context to use, of those that wcc login made." env:"WCC_CONTEXT" placeholder:"NAME"`

	Pool poolGroup `cmd:"" help:"The site's address plan: where networks and service addresses are taken from."`

	Ledger     ledgerCmd     `cmd:"" help:"What was lent and borrowed over time."`
	Label      labelCmd      `cmd:"" help:"Set and remove labels of an object."`
	Watch      watchCmd      `cmd:"" help:"Show every change of several kinds of objects."`
	Doctor     doctorCmd     `cmd:"" help:"What is wrong at the site, or with this host, and what to do."`
	Audit      auditCmd      `cmd:"" help:"Who did what at the site, or tried to."`
	Settings   settingsCmd   `cmd:"" help:"The controller's configuration as it is in force."`
	Login      loginCmd      `cmd:"" help:"Keep a controller's URL and a token as a context."`
	Contexts   contextsGroup `cmd:"" help:"The contexts that wcc login made."`
	Completion completionCmd `cmd:"" help:"Print the completion script of a shell."`
	OpenAPI    openAPICmd    `cmd:"" name:"openapi" help:"Print the description of the API (OpenAPI 3.1, JSON)."`
	Version    versionCmd    `cmd:"" help:"Print the version."`

	Serve serveCmd `cmd:"" help:"Run a site's controller."`
	Agent agentCmd `cmd:"" help:"Run a host's agent."`
	Lab   labGroup `cmd:"" help:"A whole federation on this machine, for tests and demonstrations."`
}

// app is what a command needs of the world.
type app struct {
	context.Context
	in       io.Reader
	out, err screen
	tty      bool // err is a terminal: progress is redrawn
	cli      *cli
	made     *api.Client
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
	stop()
	os.Exit(code)
}

// exit carries kong's wish to end (after --help) out of its parser.
type exit int

// usageError is what the user can mend on the command line or in a configuration file: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer, tty bool) (code int) {
	c := &cli{}
	a := &app{Context: ctx, in: in, out: screen{out}, err: screen{errs}, tty: tty, cli: c}
	defer func() {
		if v := recover(); v != nil {
			e, ok := v.(exit)
			if !ok {
				panic(v)
			}
			code = int(e)
		}
	}()
	parser, err := newParser(c, out, errs)
	if err != nil {
		panic(err) // the tree above is wrong; a test would have shown it
	}
	if len(args) > 0 && args[0] == "__complete" {
		a.complete(parser, args[1:])
		return 0
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := parser.Parse(args)
	if err != nil {
		a.printError(ownWords{err})
		var p *kong.ParseError
		if errors.As(err, &p) && p.Context != nil {
			words := []string{"wcc"}
			for _, w := range p.Context.Path {
				if w.Command != nil {
					words = append(words, w.Command.Name)
				}
			}
			a.err.printf("See %s --help\n", strings.Join(words, " "))
		}
		return 2
	}
	if err := kctx.Run(a, nounOf(kctx.Selected())); err != nil {
		a.printError(err)
		var u usageError
		if errors.As(err, &u) {
			return 2
		}
		return 1
	}
	return 0
}

func newParser(c *cli, out, errs io.Writer) (*kong.Kong, error) {
	labelled := labelledNouns()
	last := len(labelled) - 1
	return kong.New(c, append(nounGroups(), kong.Name("wcc"), kong.Writers(out, errs), kong.Exit(func(code int) { panic(exit(code)) }),
		kong.Description("The command line, controller, agent and lab of widecloud, a federation of equal clouds."),
		kong.Vars{"labelled": strings.Join(labelled, ","), "labelledWords": strings.Join(labelled[:last], ", ") + " or " + labelled[last]},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}))...)
}

// ownWords is an error whose text is this program's alone, and may have several lines; so is a usageError.
type ownWords struct{ error }

func (e ownWords) Unwrap() error { return e.error }

// printError shows an error in one line, and all its reasons, one to a line.
func (a *app) printError(err error) {
	var own ownWords
	var usage usageError
	if errors.As(err, &own) || errors.As(err, &usage) {
		a.err.printf("wcc: ")
		for line := range strings.Lines(err.Error()) {
			a.err.printf("%s\n", strings.TrimSuffix(line, "\n"))
		}
		return
	}
	var e *api.Error
	if !errors.As(err, &e) || len(e.Reasons) == 0 {
		a.err.printf("wcc: %v\n", err)
		return
	}
	bare := *e
	bare.Reasons = nil
	a.err.printf("wcc: %s\n", strings.Replace(err.Error(), e.Error(), bare.Error(), 1))
	a.err.reasons(e.Reasons)
}

// reasons prints reasons, one to a line.
func (s screen) reasons(reasons []api.Reason) {
	for _, r := range reasons {
		where := strings.Trim(r.Site+"/"+r.Host, "/")
		if where != "" {
			where += ": "
		}
		advice := ""
		if r.Advice != "" {
			advice = " (" + r.Advice + ")"
		}
		s.printf("  %s%s: %s%s\n", where, r.Code, r.Message, advice)
	}
}

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	return a.out.printf("wcc %s\n", version())
}

// version is what the build knows of itself.
type openAPICmd struct{}

func (openAPICmd) Run(a *app) error {
	_, err := a.out.raw.Write(serve.Describe(version()))
	return err
}

func version() string {
	version, revision := "devel", ""
	if b, ok := debug.ReadBuildInfo(); ok {
		if v := b.Main.Version; v != "" && v != "(devel)" {
			version = v
		}
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value
			}
		}
	}
	return version + revision
}
