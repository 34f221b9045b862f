package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"
)

// EnvPrefix stands before the name of every variable of the environment that is read.
const EnvPrefix = "SENDHOUSE"

// ErrHelp says that the command line asked only for text (--help), that this text has been
// written to the standard output given by kong.Writers, and that there is nothing left to run.
var ErrHelp = errors.New("help was shown")

// Checker is a command whose settings have rules beyond their types. Check reports everything that is wrong with them, each error
// beginning with the name of a flag. It reads the files that the settings name, and opens, connects and writes nothing.
type Checker interface{ Check() error }

// exitRequest carries kong's wish to end the process from its Exit hook up to Parse.
type exitRequest struct{ code int }

// Parse fills cli, a pointer to a struct with kong tags, from args (without the program's name),
// the environment, the file named by a field of type [File], and the defaults. Then it checks the chosen command, if that is a [Checker].
//
// The error reports all wrong settings together, each with its flag, the place where it was set unless that is the command line,
// and the rule. Only what kong cannot read at all, such as an unknown flag, hides what follows it.
//
// Variables of the environment that begin with [EnvPrefix] and are empty count as absent, and Parse removes
// them; unknown ones are an error that wraps [ErrUnknownVariable], except beside --help.
//
// It never ends the process: what kong would exit for comes back as an error, --help as [ErrHelp].
func Parse(args []string, cli any, opts ...kong.Option) (ctx *kong.Context, err error) {
	if err := dropEmptyVariables(); err != nil {
		return nil, err
	}
	found := &faults{refused: make(map[string]bool)}
	all := append([]kong.Option{kong.Name("sendhouse")}, opts...)
	all = append(all, decimalNumbers()...)
	all = append(all, found.options()...)
	all = append(all,
		kong.DefaultEnvars(EnvPrefix),
		// After --help kong calls Exit and then continues to parse, on the assumption that Exit does
		// not return. Unwinding is the only way to keep that promise without ending the process.
		kong.Exit(func(code int) { panic(exitRequest{code}) }),
	)
	parser, err := kong.New(cli, all...)
	if err != nil {
		return nil, fmt.Errorf("build the command line: %w", err)
	}
	found.collectFrom(parser.Model.Node)
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case exitRequest:
			ctx, err = nil, ErrHelp
			if reason.code != 0 {
				err = fmt.Errorf("command line: exit status %d", reason.code)
			}
		default:
			panic(reason)
		}
	}()
	ctx, err = parser.Parse(args)
	if parse := new(kong.ParseError); errors.As(err, &parse) {
		ctx = parse.Context
	}
	return ctx, found.all(ctx, err)
}

// secretsKept refuses a [Secret] that was given as a flag: every user of the machine can read a command line.
func secretsKept(ctx *kong.Context) []error {
	var errs []error
	for _, part := range ctx.Path {
		if part.Flag == nil || part.Resolved || part.Flag.Target.Type() != reflect.TypeFor[Secret]() {
			continue
		}
		errs = append(errs, fmt.Errorf("--%s: a secret must not stand on a command line, which others can read: use %s or the configuration file",
			part.Flag.Name, strings.Join(part.Flag.Envs, " or ")))
	}
	return errs
}
