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

// exitRequest carries kong's wish to end the process from its Exit hook up to Parse.
type exitRequest struct{ code int }

// Parse fills cli, a pointer to a struct with kong tags, from args (without the program's name),
// the environment, the file named by a field of type [File], and the defaults.
//
// Variables of the environment that begin with [EnvPrefix] and are empty count as absent, and Parse removes
// them; unknown ones are an error that wraps [ErrUnknownVariable], except beside --help.
//
// It never ends the process: what kong would exit for comes back as an error, --help as [ErrHelp].
// An error from the arguments themselves is a *kong.ParseError.
func Parse(args []string, cli any, opts ...kong.Option) (ctx *kong.Context, err error) {
	if err := dropEmptyVariables(); err != nil {
		return nil, err
	}
	all := append([]kong.Option{kong.Name("sendhouse")}, opts...)
	all = append(all, decimalNumbers()...)
	all = append(all,
		kong.DefaultEnvars(EnvPrefix),
		// After --help kong calls Exit and then goes on parsing, on the assumption that Exit does
		// not return. Unwinding is the only way to keep that promise without ending the process.
		kong.Exit(func(code int) { panic(exitRequest{code}) }),
	)
	parser, err := kong.New(cli, all...)
	if err != nil {
		return nil, fmt.Errorf("build the command line: %w", err)
	}
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
	if unknown := checkVariables(parser.Model); unknown != nil {
		return nil, unknown // and not what the misspelt variable led to
	}
	if err != nil {
		return ctx, err //nolint:wrapcheck // a *kong.ParseError says it all
	}
	return ctx, secretsKept(ctx)
}

// secretsKept refuses a [Secret] that was given as a flag: every user of the machine can read a command line.
func secretsKept(ctx *kong.Context) error {
	for _, part := range ctx.Path {
		if part.Flag == nil || part.Resolved || part.Flag.Target.Type() != reflect.TypeFor[Secret]() {
			continue
		}
		return fmt.Errorf("--%s: a secret must not stand on a command line, which others can read: use %s or the configuration file",
			part.Flag.Name, strings.Join(part.Flag.Envs, " or "))
	}
	return nil
}
