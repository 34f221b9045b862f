package deploy_test

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/sendhouse/sendhouse/pkg/broker"
	"github.com/sendhouse/sendhouse/pkg/chdb"
	"github.com/sendhouse/sendhouse/pkg/topology"
)

// use is a process as a file of ours starts it.
type use struct {
	args []string
	env  map[string]string
}

// TestKubernetes builds the base and the overlay, reads all of it strictly into Kubernetes' own types, and holds
// what is started against the binary.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"kubernetes/base", "kubernetes/overlays/production"} {
		resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
		require.NoError(t, err)
		settings := map[string]map[string]string{}
		var pods []corev1.PodTemplateSpec
		for _, r := range resources.Resources() {
			text, err := r.AsYAML()
			require.NoError(t, err)
			object := objectOf(r.GetApiVersion() + "/" + r.GetKind())
			require.NotNil(t, object, "%s: add the type to objectOf", r.CurId())
			require.NoError(t, yaml.UnmarshalStrict(text, object), r.CurId().String())
			switch object := object.(type) {
			case *corev1.ConfigMap:
				settings[object.Name] = object.Data
			case *appsv1.Deployment:
				require.Subset(t, object.Spec.Template.Labels, object.Spec.Selector.MatchLabels, object.Name)
				pods = append(pods, object.Spec.Template)
			case *batchv1.Job:
				pods = append(pods, object.Spec.Template)
			}
		}
		require.Len(t, pods, 4)
		for _, pod := range pods {
			require.Equal(t, "sendhouse", pod.Labels["app.kubernetes.io/part-of"], "the network policies choose by it")
			requireHardened(t, pod.Spec)
			for _, c := range pod.Spec.Containers {
				u := use{args: c.Args, env: map[string]string{}}
				for _, from := range c.EnvFrom {
					require.Contains(t, settings, from.ConfigMapRef.Name)
					for name, value := range settings[from.ConfigMapRef.Name] {
						u.env[name] = value
					}
				}
				for _, env := range c.Env {
					u.env[env.Name] = env.Value
				}
				requireUnderstood(t, u)
				requireFitsNATS(t, u)
			}
		}
	}
}

// requireFitsNATS holds a sequencer's first start against the NATS servers that we ship: their permissions name the logs of so many
// partitions, and each of them has room for all logs, and the account for all copies.
func requireFitsNATS(t *testing.T, u use) {
	t.Helper()
	if !slices.Contains(u.args, "sequencer") {
		return
	}
	var o struct {
		topology.Deployment
		topology.Options
	}
	parser, err := kong.New(&o)
	require.NoError(t, err)
	_, err = parser.Parse(slices.DeleteFunc(slices.Clone(u.args), func(arg string) bool { return !strings.HasPrefix(arg, "--") }))
	require.NoError(t, err)
	permissions, err := os.ReadFile("nats/permissions.conf")
	require.NoError(t, err)
	for name, role := range map[string]string{"MESSAGES": "writer and reader", "SENDS": "ingest"} {
		for p := range o.Partitions + 1 {
			named := strings.Contains(string(permissions), fmt.Sprintf("%s_%d", name, p))
			require.Equal(t, p < o.Partitions, named, "%s_%d of %s, with %d partitions", name, p, role, o.Partitions)
		}
	}
	server, err := os.ReadFile("nats/nats-server.conf")
	require.NoError(t, err)
	gigabytes := func(text []byte, setting string) int64 {
		found := regexp.MustCompile(setting + `: (\d+)GB`).FindSubmatch(text)
		require.NotNil(t, found, setting)
		n, err := strconv.ParseInt(string(found[1]), 10, 64)
		require.NoError(t, err)
		return n << 30
	}
	require.Less(t, int64(o.WALBytesMax+o.MessagesBytesMax), gigabytes(server, "max_file_store"))
	require.Equal(t, int64(o.Replicas)*gigabytes(server, "max_file_store"), gigabytes(permissions, "max_file"))
}

func objectOf(kind string) any {
	switch kind {
	case "v1/ConfigMap":
		return &corev1.ConfigMap{}
	case "v1/Service":
		return &corev1.Service{}
	case "v1/ServiceAccount":
		return &corev1.ServiceAccount{}
	case "apps/v1/Deployment":
		return &appsv1.Deployment{}
	case "batch/v1/Job":
		return &batchv1.Job{}
	case "policy/v1/PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}
	case "autoscaling/v2/HorizontalPodAutoscaler":
		return &autoscalingv2.HorizontalPodAutoscaler{}
	case "networking.k8s.io/v1/NetworkPolicy":
		return &networkingv1.NetworkPolicy{}
	default:
		return nil
	}
}

func requireHardened(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	require.True(t, *pod.SecurityContext.RunAsNonRoot)
	require.False(t, *pod.AutomountServiceAccountToken)
	for _, c := range pod.Containers {
		require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem, c.Name)
		require.False(t, *c.SecurityContext.AllowPrivilegeEscalation, c.Name)
		require.Equal(t, []corev1.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop, c.Name)
		require.False(t, c.Resources.Limits.Memory().IsZero(), c.Name)
		for _, mount := range c.VolumeMounts {
			require.True(t, slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name }), mount.Name)
		}
	}
}

// TestCompose reads the compose file as docker compose does, and holds what is started against the binary.
func TestCompose(t *testing.T) {
	t.Parallel()
	options, err := cli.NewProjectOptions([]string{"docker/compose.yaml"}, cli.WithoutEnvironmentResolution)
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	ours := 0
	for name, service := range project.Services {
		for _, secret := range service.Secrets {
			require.Contains(t, project.Secrets, secret.Source, name)
		}
		if service.Image != "sendhouse" {
			continue
		}
		ours++
		require.True(t, service.ReadOnly, name)
		require.Equal(t, []string{"ALL"}, service.CapDrop, name)
		u := use{args: service.Command, env: map[string]string{}}
		for variable, value := range service.Environment {
			u.env[variable] = *value
			if file, ok := strings.CutPrefix(*value, "/run/secrets/"); ok {
				require.True(t, slices.ContainsFunc(service.Secrets, func(s types.ServiceSecretConfig) bool { return s.Source == file }), "%s: %s", name, file)
			}
		}
		requireUnderstood(t, u)
	}
	require.Equal(t, 7, ours)
	for _, config := range project.Configs {
		if config.File != "" {
			require.FileExists(t, config.File)
		}
	}
}

// TestSystemd holds what the units start against the binary.
func TestSystemd(t *testing.T) {
	t.Parallel()
	units, err := filepath.Glob("systemd/*.service")
	require.NoError(t, err)
	require.Len(t, units, 4)
	for _, unit := range units {
		file, err := os.Open(unit)
		require.NoError(t, err)
		started := 0
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if command, ok := strings.CutPrefix(lines.Text(), "ExecStart=/usr/local/bin/sendhouse "); ok {
				started++
				requireUnderstood(t, use{args: strings.Fields(command)})
			}
		}
		require.NoError(t, file.Close())
		require.Equal(t, 1, started, unit)
	}
}

// TestClickHouseFiles reads the XML, and has the engine read the grants.
func TestClickHouseFiles(t *testing.T) {
	t.Parallel()
	engine, err := chdb.Open(chdb.Config{DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, engine.Close()) })
	files, err := filepath.Glob("clickhouse/*.xml")
	require.NoError(t, err)
	require.Len(t, files, 4)
	grants := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		inQuery := false
		for decoder := xml.NewDecoder(bytes.NewReader(text)); ; {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, name)
			switch token := token.(type) {
			case xml.StartElement:
				inQuery = token.Name.Local == "query"
			case xml.CharData:
				if inQuery {
					grants++
					requireParsed(t, engine, string(token)+" TO someone")
				}
			case xml.EndElement:
				inQuery = false
			}
		}
	}
	require.Equal(t, 7, grants)
}

// requireParsed has the engine read a statement without running it.
func requireParsed(t *testing.T, engine *chdb.Engine, statement string) {
	t.Helper()
	w := httptest.NewRecorder()
	query := "SELECT formatQuerySingleLine('" + statement + "')"
	engine.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/", strings.NewReader(query)))
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	require.Equal(t, statement, strings.TrimSpace(w.Body.String()))
}

// requireUnderstood fails the test if the binary does not know the flags and the variables.
func requireUnderstood(t *testing.T, u use) {
	t.Helper()
	var command []string
	for _, arg := range u.args {
		if !strings.HasPrefix(arg, "-") {
			command = append(command, arg)
		}
	}
	help := helpOf(t, command)
	for _, arg := range u.args {
		if strings.HasPrefix(arg, "-") {
			flag, _, _ := strings.Cut(arg, "=")
			positive := strings.Replace(flag, "--no-", "--[no-]", 1)
			require.True(t, strings.Contains(help, flag) || strings.Contains(help, positive), "%v: the binary does not know %s", command, flag)
		}
	}
	known := variable.FindAllString(help, -1)
	for name := range u.env {
		require.Contains(t, known, "$"+name, "%v", command)
	}
}

var variable = regexp.MustCompile(`\$SENDHOUSE_[A-Z_]+`)

func helpOf(t *testing.T, command []string) string {
	t.Helper()
	path, err := build()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), path, append(slices.Clone(command), "--help")...)
	help, err := cmd.Output()
	require.NoError(t, err, "%v", command)
	return strings.Join(strings.Fields(string(help)), " ") // variables are not broken over lines
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sendhouse-deploy-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "sendhouse")
	out, err := exec.Command("go", "build", "-o", path, "..").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// TestReaderIsTheEmbeddedOne: the reader of the shipped configuration may publish what a client without credentials may publish to the embedded
// server, for each of its partitions, and nothing else.
func TestReaderIsTheEmbeddedOne(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("nats/permissions.conf")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "{ nkey: $READER_NKEY, permissions: {\n        publish: { allow: [")
	require.True(t, found)
	list, _, found := strings.Cut(rest, "]")
	require.True(t, found)
	var shipped, embedded []string
	for _, quoted := range regexp.MustCompile(`"[^"]+"`).FindAllString(list, -1) {
		shipped = append(shipped, strings.Trim(quoted, `"`))
	}
	for _, subject := range broker.ReaderSubjects() {
		if !strings.Contains(subject, "MESSAGES_*") {
			embedded = append(embedded, subject)
			continue
		}
		for partition := range 4 {
			embedded = append(embedded, strings.ReplaceAll(subject, "MESSAGES_*", topology.MessagesStream(partition)))
		}
	}
	require.ElementsMatch(t, embedded, shipped)
}
