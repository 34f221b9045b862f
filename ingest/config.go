package ingest

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/sendhouse/sendhouse/ingest/access"
	"github.com/sendhouse/sendhouse/ingest/compat"
	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/ingest/request"
	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/guard"
)

// Config has the settings of ingest. The struct tags hold the defaults, which kong applies.
type Config struct {
	APIAddr config.Addr `name:"api-addr" help:"Address of the HTTP API that producers send to." default:"127.0.0.1:5001"`

	Access access.Config `embed:""`

	APICompat string `name:"api-compat" help:"Whose callers the HTTP API serves in addition to its own: off, or wukongim for those of WuKongIM v2 and v3. docs/reference/wukongim.md has what that changes." enum:"off,wukongim" default:"off"`

	ConnectionsMax int `name:"api-connections-max" help:"Connections to the HTTP API that may be open at the same time; further ones are answered 503. The limit of open files may allow fewer." default:"16384"`

	PayloadBytesMax config.ByteSize `name:"ingest-payload-bytes-max" help:"Largest decoded payload of one send; a larger one is answered 413." default:"512KiB"`
	BodyBytesMax    config.ByteSize `name:"ingest-body-bytes-max" help:"Largest request body; a larger one is answered 413. Leaves room for a payload in base64 and 10,000 subscribers." default:"4MiB"`
	BodiesBytesMax  config.ByteSize `name:"ingest-bodies-bytes-max" help:"Memory for all request bodies and the data decoded from them, excluding the first 2KiB of each; above it requests are answered 503." default:"256MiB"`

	PayloadRules string `name:"ingest-payload-rules" help:"What to do with payloads that differ from what WuKongIM's protocol recommends for their message type: off does not check, warn accepts and counts them, enforce answers 400." enum:"off,warn,enforce" default:"warn"`

	Permission permission.Config `embed:""`

	RequestsMax   int             `name:"ingest-requests-max" help:"Requests in flight at the same time; above it they are answered 503." default:"16384"`
	QueueSendsMax int             `name:"ingest-queue-sends-max" help:"Sends that may wait for their group commit, per partition; above it sends are answered 503." default:"8192"`
	QueueBytesMax config.ByteSize `name:"ingest-queue-bytes-max" help:"Bytes that may wait for their group commit, per partition; above it sends are answered 503." default:"32MiB"`
	WaitMax       time.Duration   `name:"ingest-wait-max" help:"How long sends may wait for their answer, per partition, while more than 256 of them wait; above it new sends are answered 503." default:"500ms"`

	AckTimeout    time.Duration `name:"ingest-ack-timeout" help:"How long the write-ahead log may take to acknowledge a group commit." default:"3s"`
	AnswerTimeout time.Duration `name:"ingest-answer-timeout" help:"How long a request waits for its answer before it is answered 503." default:"5s"`
	DrainTimeout  time.Duration `name:"ingest-drain-timeout" help:"How long the process waits for accepted requests to be answered when it stops." default:"20s"`

	HeaderReadTimeout time.Duration `name:"ingest-header-read-timeout" help:"How long a client may take to send the header of a request." default:"5s"`
	BodyReadTimeout   time.Duration `name:"ingest-body-read-timeout" help:"How long a client may take to send a whole request." default:"15s"`
	WriteTimeout      time.Duration `name:"ingest-write-timeout" help:"How long a request may take from its header to the last byte of its answer. Must exceed the body-read and answer timeouts together." default:"30s"`
	IdleTimeout       time.Duration `name:"ingest-idle-timeout" help:"How long an idle connection is kept open." default:"2m"`
	HeaderBytesMax    int           `name:"ingest-header-bytes-max" help:"Largest header of a request, in bytes." default:"16384"`
}

// Limits that are part of the format, not settings.
const (
	payloadBytesMaxMax = 4 << 20
)

// Check reports every invalid setting. hosts are the host names under which pages may reach the API. Check reads the files
// that the settings name.
func (c Config) Check(hosts guard.Hosts) error {
	_, err := access.New(c.Access, hosts, slog.New(slog.DiscardHandler))
	return errors.Join(c.check(), err)
}

// forCallers returns the configuration with the settings that APICompat changes.
func (c Config) forCallers() Config {
	if c.APICompat == compat.WuKongIM {
		c.Access.CORSHeaders = compat.Headers()
		c.Permission.Permissions = cmp.Or(c.Permission.Permissions, permission.ChannelOnly)
	}
	return c
}

// check is Check without the settings of access, which access.New checks.
func (c Config) check() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.APIAddr != "", "api-addr: is missing")
	check(c.APIAddr == "" || guard.IsLoopback(c.APIAddr.String()) || c.Access.APITokensFile != "" || c.Access.Insecure,
		"api-addr %s: others can reach this address, and would need no token: give --api-tokens-file, or say --insecure", c.APIAddr)
	check(c.ConnectionsMax >= 1, "api-connections-max %d: must be at least 1", c.ConnectionsMax)
	check(c.PayloadBytesMax >= 1 && c.PayloadBytesMax <= payloadBytesMaxMax,
		"ingest-payload-bytes-max %s: must be 1B to %s", c.PayloadBytesMax, config.ByteSize(payloadBytesMaxMax))
	// Base64 encodes three bytes as four; 1 KiB is for the other fields.
	least := (c.PayloadBytesMax+2)/3*4 + config.KiB
	check(c.BodyBytesMax >= least && c.BodyBytesMax <= 64*config.MiB,
		"ingest-body-bytes-max %s: must be %s (to hold the largest payload) to 64MiB", c.BodyBytesMax, least)
	check(c.BodiesBytesMax >= 2*c.BodyBytesMax,
		"ingest-bodies-bytes-max %s: must hold at least two of the largest bodies (%s)", c.BodiesBytesMax, 2*c.BodyBytesMax)
	check(slices.Contains([]string{request.PayloadRulesOff, request.PayloadRulesWarn, request.PayloadRulesEnforce}, c.PayloadRules),
		"ingest-payload-rules %q: must be off, warn or enforce", c.PayloadRules)
	errs = append(errs, compat.Check(c.APICompat), c.forCallers().Permission.Check())
	check(c.RequestsMax >= 1, "ingest-requests-max %d: must be at least 1", c.RequestsMax)
	check(c.QueueSendsMax >= 1, "ingest-queue-sends-max %d: must be at least 1", c.QueueSendsMax)
	check(c.QueueBytesMax >= max(c.BodyBytesMax, 1),
		"ingest-queue-bytes-max %s: must hold at least one of the largest bodies (%s)", c.QueueBytesMax, c.BodyBytesMax)
	check(c.WaitMax > 0, "ingest-wait-max %s: must be positive", c.WaitMax)
	check(c.AnswerTimeout > 0, "ingest-answer-timeout %s: must be positive", c.AnswerTimeout)
	check(c.AckTimeout > 0 && c.AckTimeout <= c.AnswerTimeout,
		"ingest-ack-timeout %s: must be positive and at most the answer timeout (%s)", c.AckTimeout, c.AnswerTimeout)
	check(c.DrainTimeout >= c.AnswerTimeout,
		"ingest-drain-timeout %s: must be at least the answer timeout (%s), or accepted requests go unanswered", c.DrainTimeout, c.AnswerTimeout)
	check(c.HeaderReadTimeout > 0, "ingest-header-read-timeout %s: must be positive", c.HeaderReadTimeout)
	check(c.BodyReadTimeout >= c.HeaderReadTimeout,
		"ingest-body-read-timeout %s: must be at least the header timeout (%s)", c.BodyReadTimeout, c.HeaderReadTimeout)
	check(c.WriteTimeout > c.BodyReadTimeout+c.AnswerTimeout,
		"ingest-write-timeout %s: must exceed the body-read and answer timeouts together (%s)", c.WriteTimeout, c.BodyReadTimeout+c.AnswerTimeout)
	check(c.IdleTimeout > 0, "ingest-idle-timeout %s: must be positive", c.IdleTimeout)
	check(c.HeaderBytesMax >= 1<<10 && c.HeaderBytesMax <= 1<<20,
		"ingest-header-bytes-max %d: must be 1024 to 1048576", c.HeaderBytesMax)
	return errors.Join(errs...)
}
