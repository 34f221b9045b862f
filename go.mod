module github.com/sendhouse/sendhouse

go 1.26.8

require (
	github.com/ClickHouse/ch-go v0.74.0 // ClickHouse LZ4 frames in the embedded engine's HTTP interface
	github.com/ClickHouse/clickhouse-go/v2 v2.50.0 // the ClickHouse client; also its block format
	github.com/HdrHistogram/hdrhistogram-go v1.4.0 // latencies of sendhouse bench
	github.com/KimMachineGun/automemlimit v1.0.1 // how much memory the machine or the container has
	github.com/alecthomas/kong v1.17.0 // command line
	github.com/andybalholm/brotli v1.2.6 // a Content-Encoding that ClickHouse clients may ask for
	github.com/cespare/xxhash/v2 v2.3.0 // the writer checks that a range reads the same again
	github.com/chromedp/cdproto v0.159.0 // the browser's protocol, in tests
	github.com/chromedp/chromedp v0.23.0 // drives a browser, in tests
	github.com/ebitengine/purego v0.11.3 // calls libchdb without cgo
	github.com/getkin/kin-openapi v0.153.0 // holds the API against openapi.yaml, in tests
	github.com/go-chi/chi/v5 v5.5.0 // HTTP routes
	github.com/go-faster/city v1.0.1 // ClickHouse's cityHash64, to compare rows with what they were made from
	github.com/go-faster/jx v1.2.0 // JSON decoding of requests without allocation
	github.com/google/pprof v0.0.0-20261105003125-4bf881d7fb0b // reads processor profiles, in the benchmark
	github.com/google/uuid v1.6.0 // client_msg_no (UUIDv7) where a request, or a send of the Go client, has none
	github.com/hanwen/go-fuse/v2 v2.12.1 // the disk that loses power, in tests
	github.com/klauspost/compress v1.20.3 // zstd and gzip Content-Encodings
	github.com/nats-io/nats-server/v2 v2.15.2 // the embedded server
	github.com/nats-io/nats.go v1.55.0 // the NATS client
	github.com/nats-io/nuid v1.0.1 // names of instances
	github.com/planetscale/vtprotobuf v0.6.1-0.20240319094008-0393e58bdf10 // the generated codec
	github.com/prometheus/client_golang v1.25.0 // metrics
	github.com/prometheus/client_model v0.6.3 // reading metrics: the front page, and tests
	github.com/shopspring/decimal v1.5.0 // ClickHouse Decimal columns in tests of the embedded engine
	github.com/stretchr/testify v1.12.1 // assertions in tests
	go.yaml.in/yaml/v3 v3.0.6 // the configuration file
	golang.org/x/net v0.61.0
	golang.org/x/sync v0.24.0 // errgroup
	golang.org/x/sys v0.49.0 // sync_file_range of that disk
	golang.org/x/time v0.16.0 // rate limits of callers
	google.golang.org/protobuf v1.36.12 // the records' format
	pgregory.net/rapid v1.3.0 // property tests
)

require (
	github.com/compose-spec/compose-go/v2 v2.16.2
	github.com/nats-io/nkeys v0.4.16
	go.opentelemetry.io/otel v1.47.0 // traces; off by default
	go.opentelemetry.io/otel/exporters/otlp/otlptrace v1.47.0 // sends traces to a collector
	go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp v1.47.0 // over HTTP
	go.opentelemetry.io/otel/sdk v1.47.0 // makes and batches spans
	go.opentelemetry.io/otel/trace v1.47.0 // spans
	go.opentelemetry.io/proto/otlp v1.11.1 // a collector to send traces to, in tests
	k8s.io/api v0.37.2
	sigs.k8s.io/kustomize/api v0.21.2
	sigs.k8s.io/kustomize/kyaml v0.21.2
	sigs.k8s.io/yaml v1.6.0
)

require github.com/landlock-lsm/go-landlock v0.11.2

require (
	github.com/antithesishq/antithesis-sdk-go v0.8.0-default-no-op // indirect
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/blang/semver/v4 v4.0.0 // indirect
	github.com/cenkalti/backoff/v5 v5.0.3 // indirect
	github.com/distribution/reference v0.6.0 // indirect
	github.com/docker/go-connections v0.8.2 // indirect
	github.com/docker/go-units v0.5.0 // indirect
	github.com/fxamacker/cbor/v2 v2.9.1 // indirect
	github.com/go-errors/errors v1.5.1 // indirect
	github.com/go-faster/errors v0.7.1 // indirect
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/go-openapi/jsonpointer v1.0.1 // indirect
	github.com/go-openapi/jsonreference v1.0.1 // indirect
	github.com/go-openapi/swag v0.29.2 // indirect
	github.com/go-openapi/swag/cmdutils v0.29.2 // indirect
	github.com/go-openapi/swag/conv v0.29.2 // indirect
	github.com/go-openapi/swag/fileutils v0.29.2 // indirect
	github.com/go-openapi/swag/jsonutils v0.29.2 // indirect
	github.com/go-openapi/swag/loading v0.29.2 // indirect
	github.com/go-openapi/swag/mangling v0.29.2 // indirect
	github.com/go-openapi/swag/netutils v0.29.2 // indirect
	github.com/go-openapi/swag/pools v0.29.2 // indirect
	github.com/go-openapi/swag/stringutils v0.29.2 // indirect
	github.com/go-openapi/swag/typeutils v0.29.2 // indirect
	github.com/go-openapi/swag/yamlutils v0.29.2 // indirect
	github.com/go-viper/mapstructure/v2 v2.5.0 // indirect
	github.com/google/gnostic-models v0.7.1 // indirect
	github.com/google/go-tpm v0.9.8 // indirect
	github.com/grpc-ecosystem/grpc-gateway/v2 v2.31.0 // indirect
	github.com/json-iterator/go v1.1.12 // indirect
	github.com/kylelemons/godebug v1.1.0 // indirect
	github.com/mattn/go-shellwords v1.0.12 // indirect
	github.com/minio/highwayhash v1.0.4 // indirect
	github.com/modern-go/concurrent v0.0.0-20180306012644-bacd9c7ef1dd // indirect
	github.com/modern-go/reflect2 v1.0.3-0.20250322232337-35a7c28c31ee // indirect
	github.com/monochromegane/go-gitignore v0.0.0-20200626010858-205db1a8cc00 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/nats-io/jwt/v2 v2.8.2 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/paulmach/orb v0.13.0 // indirect
	github.com/pbnjay/memory v0.0.0-20210728143218-7b4eea64cf58 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3 // indirect
	github.com/segmentio/asm v1.2.1 // indirect
	github.com/sirupsen/logrus v1.10.1 // indirect
	github.com/x448/float16 v0.8.4 // indirect
	github.com/xhit/go-str2duration/v2 v2.1.0 // indirect
	github.com/xlab/treeprint v1.2.0 // indirect
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/otel/log v1.47.0 // indirect
	go.opentelemetry.io/otel/metric v1.47.0 // indirect
	go.yaml.in/yaml/v2 v2.4.4 // indirect
	go.yaml.in/yaml/v4 v4.0.0 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20260928230214-8a89bd6388cc // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260928230214-8a89bd6388cc // indirect
	google.golang.org/grpc v1.84.0 // indirect
	gopkg.in/evanphx/json-patch.v4 v4.13.0 // indirect
	gopkg.in/inf.v0 v0.9.1 // indirect
	k8s.io/apimachinery v0.37.2 // indirect
	k8s.io/klog/v2 v2.140.0 // indirect
	k8s.io/kube-openapi v0.0.0-20260721132016-d427ff9ee9ad // indirect
	k8s.io/utils v0.0.0-20260626114624-be93311217bd // indirect
	kernel.org/pub/linux/libs/security/libcap/psx v1.2.78 // indirect
	sigs.k8s.io/json v0.0.0-20250730193827-2d320260d730 // indirect
	sigs.k8s.io/randfill v1.0.0 // indirect
	sigs.k8s.io/structured-merge-diff/v6 v6.4.2 // indirect
)
