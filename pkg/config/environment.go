package config

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// ErrUnknownVariable is wrapped by the error about a variable of the environment that begins with
// [EnvPrefix] and an underscore and belongs to no flag of any command.
var ErrUnknownVariable = errors.New("unknown variable")

// libraryVariable names the file of the embedded ClickHouse. It is no flag, since the tool that fetches
// the file reads it too; see package chdb.
const libraryVariable = EnvPrefix + "_CHDB_LIB"

// EmptyVariables returns the names of the variables that begin with [EnvPrefix] and are set to nothing,
// sorted. [Parse] takes them for absent and removes them from the environment, so ask before it.
func EmptyVariables() []string {
	var empty []string
	for name, value := range variables {
		if value == "" {
			empty = append(empty, name)
		}
	}
	slices.Sort(empty)
	return empty
}

// variables iterates over the names and values of the variables that begin with EnvPrefix.
func variables(yield func(name, value string) bool) {
	for _, set := range os.Environ() {
		name, value, _ := strings.Cut(set, "=")
		if strings.HasPrefix(name, EnvPrefix+"_") && !yield(name, value) {
			return
		}
	}
}

// dropEmptyVariables removes them, because kong takes a variable that is set for one that has a value.
func dropEmptyVariables() error {
	for _, name := range EmptyVariables() {
		if err := os.Unsetenv(name); err != nil {
			return fmt.Errorf("remove the empty variable %s from the environment: %w", name, err)
		}
	}
	return nil
}

// checkVariables reports every variable that no command has a flag for, all together. It does not
// print values: a misspelt name can hold a password.
func checkVariables(app *kong.Application) error {
	known := map[string]string{flagForm(libraryVariable): libraryVariable}
	for _, flags := range flagsByName(app.Node) {
		for _, flag := range flags {
			for _, name := range flag.Envs {
				known[flagForm(name)] = name
			}
		}
	}
	var unknown []string
	for name, value := range variables {
		if known[flagForm(name)] != name && !ofService(name, value) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	var errs []error
	for _, name := range unknown {
		hint := "remove it, or see `sendhouse COMMAND --help` for the names"
		if near := nearest(flagForm(name), known); near != "" {
			hint = fmt.Sprintf("did you mean %s?", known[near])
		}
		errs = append(errs, fmt.Errorf("environment: %s: %w (%s)", name, ErrUnknownVariable, hint))
	}
	return errors.Join(errs...)
}

// flagForm writes the name of a variable as that of a flag: SENDHOUSE_API_ADDR is api-addr.
func flagForm(variable string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(variable, EnvPrefix+"_"), "_", "-"))
}

// What Kubernetes sets in every container for each Service: NAME_SERVICE_HOST, NAME_SERVICE_PORT, the same
// with the name of a port, and the variables that Docker's links once had, which hold URLs and their parts.
var (
	servicePattern = regexp.MustCompile(`_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$`)
	linkPattern    = regexp.MustCompile(`_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)
	linkURLPattern = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

// ofService reports whether Kubernetes has set the variable, for a Service whose name begins with sendhouse.
// NAME_PORT could be a slip of the operator's; Kubernetes' own holds a URL.
func ofService(name, value string) bool {
	return servicePattern.MatchString(name) || linkPattern.MatchString(name) ||
		strings.HasSuffix(name, "_PORT") && linkURLPattern.MatchString(value)
}
