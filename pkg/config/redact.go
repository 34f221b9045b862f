package config

import (
	"errors"
	"net/url"
	"reflect"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
)

// redacted stands for a secret wherever one is printed.
const redacted = "[redacted]"

var (
	// schemePattern is the start of an address in a list of them.
	schemePattern = regexp.MustCompile(`(?:^|,)\s*[A-Za-z][A-Za-z0-9+.-]*://`)
	// urlPattern is a URL in a text: it ends at white space.
	urlPattern = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://\S+`)
	// parameterPattern is the name of a parameter in a query. A password in front of the host can hold a question mark, so any
	// question mark may begin one.
	parameterPattern = regexp.MustCompile(`[?&]([^=&?]*)=`)
	// secretPattern is found in the names of parameters that hold a secret.
	secretPattern = regexp.MustCompile(`(?i)passw|pwd|token|secret|jwt|credential|proxy`)
)

// RedactURL takes the credentials out of a URL, an address or a list of them separated by commas: what stands before the @
// of each, and from a parameter that holds a secret to the end of its address. The text need not parse. Of one that is malformed it takes
// out too much rather than too little.
func RedactURL(text string) string {
	var out strings.Builder
	from := 0
	for _, scheme := range schemePattern.FindAllStringIndex(text, -1) {
		out.WriteString(redactAddress(text[from:scheme[0]]))
		out.WriteString(text[scheme[0]:scheme[1]])
		from = scheme[1]
	}
	out.WriteString(redactAddress(text[from:]))
	return out.String()
}

// redactAddress is RedactURL of what stands between two schemes.
func redactAddress(text string) string {
	for _, parameter := range parameterPattern.FindAllStringSubmatchIndex(text, -1) {
		name, err := url.QueryUnescape(text[parameter[2]:parameter[3]])
		if err != nil || secretPattern.MatchString(name) {
			text = text[:parameter[1]] + redacted
			break
		}
	}
	// The last @, because a password can hold others.
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		text = redacted + text[at:]
	}
	return text
}

// RedactText takes the credentials out of every URL with a scheme in a text, such as an error or a line of a log. If a setting is
// printed on purpose, use [RedactURL]: it knows where the value ends, white space or not.
func RedactText(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	return urlPattern.ReplaceAllStringFunc(text, RedactURL)
}

// RedactArguments returns the arguments of a command line without the credentials in URLs.
func RedactArguments(args []string) []string {
	out := make([]string, len(args))
	named := false // by the argument before: --nats-url user:password@host
	for i, arg := range args {
		name, value, joined := strings.Cut(arg, "=")
		switch isFlag := strings.HasPrefix(arg, "-"); {
		case isFlag && joined && (strings.Contains(value, "://") || namesAddress(name)):
			out[i] = name + "=" + RedactURL(value)
		case !isFlag && (strings.Contains(arg, "://") || named):
			out[i] = RedactURL(arg)
		default:
			out[i] = arg
		}
		named = !joined && namesAddress(name)
	}
	return out
}

// namesAddress reports whether a flag holds a URL, by its name.
func namesAddress(flag string) bool {
	return strings.HasPrefix(flag, "-") && (strings.HasSuffix(flag, "-url") || strings.HasSuffix(flag, "-dsn"))
}

// errUnescaped says what is wrong with a URL without showing any of it.
var errUnescaped = errors.New("an @ stands after the end of the host: write / ? # , and @ in user and password as %2F %3F %23 %2C %40")

// CheckURL refuses a URL in which part of the user or the password would be taken for the host or for what follows it, and shown as
// such: those hold a character that must be escaped. An @ in the value of a parameter is fine. It does not check anything else.
func CheckURL(text string) error {
	_, address, found := strings.Cut(text, "://")
	if !found {
		address = text
	}
	end := strings.IndexAny(address, "/?#")
	if end < 0 {
		return nil
	}
	path, query, _ := strings.Cut(address[end:], "?")
	if strings.Contains(path, "@") {
		return errUnescaped
	}
	for parameter := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(parameter, "=")
		if strings.Contains(name, "@") {
			return errUnescaped
		}
	}
	return nil
}

// Exposed is a flag that was given on the command line with credentials in it, where every user of the machine can read them.
type Exposed struct {
	Flag string // as in --nats-url
	Envs []string
}

// ExposedCredentials returns the flags of a parsed command line whose URLs hold credentials.
func ExposedCredentials(ctx *kong.Context) []Exposed {
	var exposed []Exposed
	for _, part := range ctx.Path {
		if part.Flag == nil || part.Resolved || part.Flag.Target.Kind() != reflect.String {
			continue
		}
		name, value := "--"+part.Flag.Name, part.Flag.Target.String()
		if (strings.Contains(value, "://") || namesAddress(name)) && RedactURL(value) != value {
			exposed = append(exposed, Exposed{Flag: name, Envs: part.Flag.Envs})
		}
	}
	return exposed
}
