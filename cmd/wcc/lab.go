package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/play"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

type labGroup struct {
	Run   labRunCmd   `cmd:"" help:"Build a federation, run a script on it, report, and take everything down."`
	Up    labUpCmd    `cmd:"" help:"Build a script's federation and leave it up."`
	Down  labDownCmd  `cmd:"" help:"Take down what wcc lab up or run --keep left."`
	Check labCheckCmd `cmd:"" help:"Say what is wrong with scripts, and build nothing."`
	Words labWordsCmd `cmd:"" help:"Show the statements of the language."`

	Status  labStatusCmd  `cmd:"" help:"Show the machines of a lab that is up, and what runs on them."`
	Shell   labShellCmd   `cmd:"" help:"Open a shell on a machine of a lab that is up, or run a command there."`
	Logs    labLogsCmd    `cmd:"" help:"Show the logs of a machine's processes."`
	Capture labCaptureCmd `cmd:"" help:"Write the frames on a machine's link as pcap."`
	Graph   labGraphCmd   `cmd:"" help:"Draw the machines and links of a lab that is up."`

	Hosts labHostsCmd `cmd:"" hidden:"" help:"Run simulated hosts, as the lab does."`
}

type labFlags struct {
	Name string `help:"Name of the lab; labs of different names can be up at the same time." default:"lab"`
	Logs string `help:"Directory for the logs of all processes; it is emptied first." type:"path" placeholder:"DIR"`
	Hold int    `hidden:"" help:"Descriptor on which to say the exit code once everything is done; the federation is held up after that."`
	TTY  bool   `hidden:"" name:"tty" help:"Output ends on a terminal."`
}

type labRunCmd struct {
	Files []string `arg:"" type:"path" help:"Lab scripts; docs/lab.md explains the language."`
	Keep  bool     `help:"Leave the machines up at the end, and say how to play with them; for one script."`
	On    string   `type:"path" placeholder:"FILE" help:"Run the scripts one after the other on the machines that this script declares, which are built once."`
	Cores int      `help:"Run scripts beside each other as far as so many cores bear it; 0: one at a time."`
	labFlags
}

func (c *labRunCmd) Run(a *app) error {
	switch {
	case c.Keep && (len(c.Files) > 1 || c.On != ""):
		return usageError{errors.New("--keep is for one script")}
	case c.Cores < 0 || c.Cores > 0 && c.On != "":
		return usageError{errors.New("--cores is at least 0, and not for --on: what scripts do to shared machines disturbs others")}
	case len(c.Files) == 1 && c.On == "":
		return c.labFlags.run(a, "run", c.Files[0], c.Keep)
	}
	return c.several(a)
}

// several runs many scripts, and prints the table of their times.
func (c *labRunCmd) several(a *app) error {
	var (
		pieces []play.Piece
		errs   []error
	)
	for _, f := range c.Files {
		p, err := readPiece(f)
		errs = append(errs, err)
		pieces = append(pieces, p)
	}
	var base play.Piece
	if c.On != "" {
		var err error
		base, err = readPiece(c.On)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	begun := time.Now()
	outcomes, err := c.play(a, base, pieces)
	fmt.Fprint(a.out.raw, play.Table(outcomes, time.Since(begun)))
	if err != nil {
		return ownWords{err}
	}
	if slices.ContainsFunc(outcomes, func(o play.Outcome) bool { return !o.OK() }) {
		return errFailed
	}
	return nil
}

func (c *labRunCmd) play(a *app, base play.Piece, pieces []play.Piece) ([]play.Outcome, error) {
	o := c.options(a)
	if base.Script != nil {
		return play.RunOn(a, base, pieces, o)
	}
	return play.RunAll(a, pieces, c.Cores, o)
}

func (c *labFlags) options(a *app) play.Options {
	return play.Options{Name: c.Name, Out: a.out.raw, TTY: c.TTY || isTerminal(a.out.raw), LogDir: c.Logs, Log: slog.New(slog.DiscardHandler)}
}

type labUpCmd struct {
	File string `arg:"" type:"path" help:"A lab script; of it, only what declares something is done."`
	labFlags
}

func (c *labUpCmd) Run(a *app) error { return c.labFlags.run(a, "up", c.File, true) }

type labCheckCmd struct {
	Files []string `arg:"" type:"path" help:"Lab scripts."`
}

func (c *labCheckCmd) Run(a *app) error {
	var errs []error
	for _, f := range c.Files {
		_, err := readPiece(f)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	return nil
}

type labWordsCmd struct {
	Word     string `arg:"" optional:"" complete:"labwords" help:"Only the statements that begin with this word."`
	Markdown bool   `help:"The whole reference, as docs/lab.md has it."`
}

func (c *labWordsCmd) Run(a *app) error {
	if c.Markdown {
		_, err := fmt.Fprint(a.out.raw, play.Language.Reference())
		return err
	}
	words := play.Language.Words()
	if c.Word != "" {
		if len(play.Language.Entries(c.Word)) == 0 {
			return usageError{fmt.Errorf("no statement begins with %q; known: %s", c.Word, strings.Join(words, ", "))}
		}
		words = []string{c.Word}
	}
	for _, w := range words {
		for _, e := range play.Language.Entries(w) {
			if err := a.out.printf("%s\n    %s\n", e.Form, strings.ReplaceAll(e.Doc, "`", "")); err != nil {
				return err
			}
		}
	}
	return nil
}

// readPiece reads a script with its base.
func readPiece(file string) (play.Piece, error) {
	s, err := readScript(file)
	if err != nil {
		return play.Piece{}, err
	}
	p := play.Piece{Script: s, Dir: filepath.Dir(file)}
	said, ok := script.Has[*stage.Setting](s)
	if !ok || said.Base == "" {
		return p, nil
	}
	at := filepath.Join(p.Dir, said.Base)
	base, err := readScript(at)
	if err != nil {
		return play.Piece{}, fmt.Errorf("%s: its base: %w", s.File, err)
	}
	p.Base = &play.Piece{Script: base, Dir: filepath.Dir(at)}
	return p, nil
}

func readScript(file string) (*script.Script, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	name := file
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, file); err == nil && !strings.HasPrefix(rel, "..") {
			name = rel
		}
	}
	return play.Parse(name, string(b))
}

// errFailed is the end of a script of which something failed; the report has said what.
var errFailed = errors.New("the script has failed")

func (c *labFlags) run(a *app, verb, file string, keep bool) error {
	script, err := readScript(file)
	if err != nil {
		return usageError{err}
	}
	if keep && c.Hold == 0 {
		return c.detach(a, verb, file)
	}
	o := c.options(a)
	o.Dir, o.UpOnly = filepath.Dir(file), verb == "up"
	if c.Hold != 0 {
		o.Hold = func(st *stage.Stage) { c.hold(a, st) }
	}
	result, err := play.Run(a, script, o)
	if err != nil {
		return ownWords{err}
	}
	if _, failed := result.Counts(); failed > 0 {
		return errFailed
	}
	return nil
}

// hold says the outcome and the commands to play with to the program that waits for it, lets go of the terminal, and keeps
// the federation up until it is told to end.
func (c *labFlags) hold(a *app, st *stage.Stage) {
	r := st.Result()
	_, failed := r.Counts()
	hints, err := play.Keep(st)
	if err != nil {
		failed++
		a.err.printf("wcc: %v\n", err)
	}
	fmt.Fprint(a.out.raw, hints)
	a.out.printf("  %s lab down --name %s\n", os.Args[0], c.Name)
	r.Report(stage.NewConsole(a.out.raw, c.TTY))
	code := 0
	if failed > 0 {
		code = 1
	}
	pipe := os.NewFile(uintptr(c.Hold), "hold")
	fmt.Fprintln(pipe, code)
	if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		syscall.Dup2(int(null.Fd()), 1)
		syscall.Dup2(int(null.Fd()), 2)
		null.Close()
	}
	pipe.Close()
	<-a.Done()
}

// detach runs the lab in a process of its own that stays, because a lab lives as long as its program, and shows what it
// says until everything has been done.
func (c *labFlags) detach(a *app, verb, file string) error {
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	defer pr.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"lab", verb, "--name", c.Name, "--hold", "3"}
	if verb == "run" {
		args = append(args, "--keep")
	}
	if c.Logs != "" {
		args = append(args, "--logs", c.Logs)
	}
	if isTerminal(a.out.raw) {
		args = append(args, "--tty")
	}
	cmd := exec.Command(self, append(args, file)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{pw}
	cmd.Stdout, cmd.Stderr = outputFile(a.out.raw), outputFile(a.err.raw)
	err = cmd.Start()
	pw.Close()
	if err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(stop)
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(pr).ReadString('\n')
		said <- strings.TrimSpace(line)
	}()
	for {
		select {
		case <-stop:
			cmd.Process.Signal(syscall.SIGTERM)
		case code := <-said:
			switch code {
			case "0":
				return nil
			case "1":
				return errFailed
			}
			if err := cmd.Wait(); err != nil { // it has ended and taken everything down
				return errFailed
			}
			return nil
		}
	}
}

// outputFile is a writer as a file, if it is one: a child process can then have it for itself.
func outputFile(w io.Writer) *os.File {
	if f, ok := w.(*os.File); ok {
		return f
	}
	return os.Stdout
}

type labDownCmd struct {
	Name string `help:"Name of the lab." default:"lab"`
}

// takeDownTime is how long a lab may take to be taken down.
const takeDownTime = time.Minute

func (c *labDownCmd) Run(a *app) error {
	ctx, cancel := context.WithTimeout(a, takeDownTime)
	defer cancel()
	end := machine.TakeDown(ctx, "", c.Name)
	if end != nil && !errors.Is(end, fs.ErrNotExist) {
		return end
	}
	swept, err := machine.Sweep("", c.Name) // also of a program that was killed while it took down
	switch {
	case err != nil:
		return err
	case len(swept) > 0:
		return a.out.printf("removed what was left of lab %s\n", c.Name)
	case end != nil:
		return a.out.printf("lab %s is not up\n", c.Name)
	}
	return a.out.printf("lab %s is down\n", c.Name)
}

// isTerminal tells whether a writer is a terminal, where progress can be redrawn.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
