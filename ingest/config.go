package ingest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sendhouse/sendhouse/ingest/permission"
	"github.com/sendhouse/sendhouse/pkg/config"
	"github.com/sendhouse/sendhouse/pkg/guard"
)

// Config is what an operator may set. The defaults stand in the tags; kong fills them in.
type Config struct {
	APIAddr config.Addr `name:"api-addr" help:"Address of the HTTP API that producers send to." default:"127.0.0.1:5001"`

	APITokensFile string `name:"api-tokens-file" help:"File of the tokens that the HTTP API takes, a line each: scopes (send, manage, read; separated by commas), a space, sha256: and the token's SHA-256 in hex. Changes are seen within seconds." placeholder:"PATH"`
	Insecure      bool   `name:"insecure" help:"Listen on addresses that others can reach though they need no credentials: for the HTTP API without tokens, and for the embedded NATS."`

	TLSCertFile     string `name:"api-tls-cert-file" help:"Certificate of the HTTP API, with its chain, in PEM; with it the API speaks HTTPS only. Changes of the three files are seen within seconds." placeholder:"PATH"`
	TLSKeyFile      string `name:"api-tls-key-file" help:"Private key of the certificate, in PEM." placeholder:"PATH"`
	TLSClientCAFile string `name:"api-tls-client-ca-file" help:"Authorities, in PEM, one of which must have signed the certificate that every client then has to show." placeholder:"PATH"`

	TokenRate      float64  `name:"api-token-rate" help:"Sends per second that each token may make on average; beyond it they are answered 429. Any other request counts as one. 0 means no limit." default:"0"`
	TokenBurst     int      `name:"api-token-burst" help:"Sends that a token may make at one time. 0 means as many as in one second." default:"0"`
	AddressRate    float64  `name:"api-address-rate" help:"Sends per second that each client address (of IPv6 each network of 64 bits) may make on average; beyond it they are answered 429. 0 means no limit." default:"0"`
	AddressBurst   int      `name:"api-address-burst" help:"Sends that a client address may make at one time. 0 means as many as in one second." default:"0"`
	TrustedProxies []string `name:"api-trusted-proxies" help:"Networks (10.0.0.0/8) and addresses, separated by commas, of proxies whose X-Forwarded-For is believed. By default nobody's is." placeholder:"NETWORK"`
	CORSOrigins    []string `name:"api-cors-origins" help:"Origins (https://chat.example.org), separated by commas, whose pages may call the HTTP API from a browser; * means all. By default none may." placeholder:"ORIGIN"`
	ConnectionsMax int      `name:"api-connections-max" help:"Connections to the HTTP API that may be open at one time; further ones are answered 503. The limit of open files may allow fewer." default:"16384"`

	PayloadBytesMax config.ByteSize `name:"ingest-payload-bytes-max" help:"Largest decoded payload of one send; a larger one is answered 413." default:"64KiB"`
	BodyBytesMax    config.ByteSize `name:"ingest-body-bytes-max" help:"Largest request body; a larger one is answered 413. Leaves room for a payload in base64 and 10,000 subscribers." default:"4MiB"`
	BodiesBytesMax  config.ByteSize `name:"ingest-bodies-bytes-max" help:"Memory for all request bodies being read, and what is made of them, at one time, without the first 2KiB of each; beyond it requests are answered 503." default:"256MiB"`

	PayloadRules string `name:"ingest-payload-rules" help:"What to do with payloads that are not as WuKongIM's protocol recommends for their message type: off does not look, warn takes and counts them, enforce answers 400." enum:"off,warn,enforce" default:"warn"`

	permission.Config

	RequestsMax   int             `name:"ingest-requests-max" help:"Requests in flight at one time; beyond it they are answered 503." default:"16384"`
	QueueSendsMax int             `name:"ingest-queue-sends-max" help:"Sends that may wait for their group commit, per partition; beyond it they are answered 503." default:"8192"`
	QueueBytesMax config.ByteSize `name:"ingest-queue-bytes-max" help:"Bytes that may wait for their group commit, per partition; beyond it sends are answered 503." default:"32MiB"`
	WaitMax       time.Duration   `name:"ingest-wait-max" help:"How long sends may wait for their answer, per partition, while a crowd of them does; as long as it takes longer, new ones are answered 503." default:"500ms"`

	AckTimeout    time.Duration `name:"ingest-ack-timeout" help:"How long the write-ahead log may take to acknowledge a group commit." default:"3s"`
	AnswerTimeout time.Duration `name:"ingest-answer-timeout" help:"How long a request waits for its answer before it is answered 503." default:"5s"`
	DrainTimeout  time.Duration `name:"ingest-drain-timeout" help:"How long accepted requests may take to be answered when the process stops." default:"20s"`

	HeaderReadTimeout time.Duration `name:"ingest-header-read-timeout" help:"How long a client may take to send the header of a request." default:"5s"`
	BodyReadTimeout   time.Duration `name:"ingest-body-read-timeout" help:"How long a client may take to send a whole request." default:"15s"`
	WriteTimeout      time.Duration `name:"ingest-write-timeout" help:"How long a request may take from its header to the last byte of its answer. Must exceed the body-read and answer timeouts together." default:"30s"`
	IdleTimeout       time.Duration `name:"ingest-idle-timeout" help:"How long a connection is kept with no request on it." default:"2m"`
	HeaderBytesMax    int           `name:"ingest-header-bytes-max" help:"Largest header of a request, in bytes." default:"16384"`
}

// Limits that are part of the format and not settings.
const (
	// A group commit at most (docs/adr/0009-larger-group-commits.md). Readers of the log do not rely on it.
	batchSendsMax = 1024
	batchBytesMax = 512 << 10

	// headerRoomBytes is kept free of the server's max_payload for the headers of a
	// record: our reply subject, and what JetStream may add; and for the head of a message batch.
	headerRoomBytes = 4 << 10

	payloadBytesMaxMax = 4 << 20

	// Rates of callers, per second: from one in 100 seconds to more than there can be.
	rateMin, rateMax = 0.01, 1e9
)

// validate reports every setting that is out of its range.
func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.APIAddr != "", "api-addr: is missing")
	check(c.APIAddr == "" || guard.IsLoopback(c.APIAddr.String()) || c.APITokensFile != "" || c.Insecure,
		"api-addr %s: others can reach this address, and would need no token: give --api-tokens-file, or say --insecure", c.APIAddr)
	check((c.TLSCertFile == "") == (c.TLSKeyFile == ""), "api-tls-cert-file and api-tls-key-file: give both or none")
	check(c.TLSClientCAFile == "" || c.TLSCertFile != "", "api-tls-client-ca-file: needs api-tls-cert-file and api-tls-key-file")
	checkRate := func(name string, perSecond float64, burst int) {
		check(perSecond == 0 || perSecond >= rateMin && perSecond <= rateMax, "api-%s-rate %v: must be 0 (no limit), or %v to %v", name, perSecond, rateMin, rateMax)
		check(burst >= 0 && burst <= rateMax, "api-%s-burst %d: must be 0 to %d", name, burst, int(rateMax))
	}
	checkRate("token", c.TokenRate, c.TokenBurst)
	checkRate("address", c.AddressRate, c.AddressBurst)
	check(c.TokenRate == 0 || c.APITokensFile != "", "api-token-rate: needs api-tokens-file")
	if _, err := parseProxies(c.TrustedProxies); err != nil {
		errs = append(errs, fmt.Errorf("api-trusted-proxies: %w", err))
	}
	for _, origin := range c.CORSOrigins {
		if err := checkOrigin(origin); err != nil {
			errs = append(errs, fmt.Errorf("api-cors-origins: %w", err))
		}
	}
	check(c.ConnectionsMax >= 1, "api-connections-max %d: must be at least 1", c.ConnectionsMax)
	check(c.PayloadBytesMax >= 1 && c.PayloadBytesMax <= payloadBytesMaxMax,
		"ingest-payload-bytes-max %s: must be 1B to %s", c.PayloadBytesMax, config.ByteSize(payloadBytesMaxMax))
	// Base64 makes four bytes of three; a KiB is for the other fields.
	least := (c.PayloadBytesMax+2)/3*4 + config.KiB
	check(c.BodyBytesMax >= least && c.BodyBytesMax <= 64*config.MiB,
		"ingest-body-bytes-max %s: must be %s (to hold the largest payload) to 64MiB", c.BodyBytesMax, least)
	check(c.BodiesBytesMax >= 2*c.BodyBytesMax,
		"ingest-bodies-bytes-max %s: must hold at least two of the largest bodies (%s)", c.BodiesBytesMax, 2*c.BodyBytesMax)
	check(slices.Contains([]string{payloadRulesOff, payloadRulesWarn, payloadRulesEnforce}, c.PayloadRules),
		"ingest-payload-rules %q: must be off, warn or enforce", c.PayloadRules)
	errs = append(errs, c.Config.Check())
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
