// Command secrets makes what the processes of a deployment show each other: an
// authority for NATS and its clients with a certificate for the servers and one for
// each role, an authority of their own for the routes between the servers, an NKey
// for each role, a token for the API, passwords for ClickHouse. It is for trying out;
// if you have a way to keep secrets, use that.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
)

const validity = 365 * 24 * time.Hour

func main() {
	dir := flag.String("dir", "", "folder to make; must not exist")
	hosts := flag.String("hosts", "nats-1,nats-2,nats-3,clickhouse,localhost", "names that the servers' certificates are good for, separated by commas")
	flag.Parse()
	if err := run(*dir, strings.Split(*hosts, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "secrets:", err)
		os.Exit(1)
	}
}

func run(dir string, hosts []string) error {
	if dir == "" {
		return errors.New("-dir is missing")
	}
	// The folder is the user's alone. The files are not, since containers read them under other users.
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	o := out{dir: dir}
	clients := []string{"ingest", "sequencer", "writer", "reader", "operator", "system"}
	o.certificates(hosts, clients)
	o.nkeys(clients...)
	o.passwords("admin", "writer", "reader")
	token := o.random()
	o.write("token", token)
	sum := sha256.Sum256([]byte(token))
	o.write("tokens", fmt.Sprintf("send,manage,read sha256:%x\n", sum))
	return o.err
}

// out writes files until one fails.
type out struct {
	dir string
	err error
}

func (o *out) write(name, text string) {
	if o.err == nil {
		o.err = os.WriteFile(filepath.Join(o.dir, name), []byte(text), 0o644)
	}
}

func (o *out) random() string {
	text := make([]byte, 24)
	_, err := rand.Read(text)
	o.err = errors.Join(o.err, err)
	return hex.EncodeToString(text)
}

// nkeys writes a seed for each name, and the public keys as variables of the
// environment, by which deploy/nats/permissions.conf knows them.
func (o *out) nkeys(names ...string) {
	var env strings.Builder
	for _, name := range names {
		pair, err := nkeys.CreateUser()
		if err != nil {
			o.err = errors.Join(o.err, err)
			return
		}
		seed, seedErr := pair.Seed()
		public, publicErr := pair.PublicKey()
		o.err = errors.Join(o.err, seedErr, publicErr)
		o.write(name+".nk", string(seed))
		fmt.Fprintf(&env, "%s_NKEY=%s\n", strings.ToUpper(name), public)
	}
	o.write("nats.env", env.String())
}

// passwords writes one for each of ClickHouse's users, and what deploy/clickhouse
// wants to know of them.
func (o *out) passwords(names ...string) {
	var env strings.Builder
	for _, name := range names {
		password := o.random()
		o.write("clickhouse-"+name, password)
		fmt.Fprintf(&env, "SENDHOUSE_%s_SHA256=%x\n", strings.ToUpper(name), sha256.Sum256([]byte(password)))
		fmt.Fprintf(&env, "SENDHOUSE_%s_PASSWORD=%s\n", strings.ToUpper(name), password)
	}
	o.write("clickhouse.env", env.String())
}

// certificates makes the certificates of the servers for their clients, and those of the clients, signed by one authority; and
// those for the routes between servers, signed by another. A client's certificate is valid for clients only, so that its
// holder cannot pose as a server.
func (o *out) certificates(hosts []string, clients []string) {
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	ca := o.authority("ca.crt", "Sendhouse authority")
	ca.issue("nats", hosts, x509.ExtKeyUsageServerAuth)
	ca.issue("clickhouse", hosts, x509.ExtKeyUsageServerAuth)
	for _, client := range clients {
		ca.issue(client, nil, x509.ExtKeyUsageClientAuth)
	}
	o.authority("routes-ca.crt", "Sendhouse authority for routes").issue("routes", hosts, both...)
}

// authority signs certificates.
type authority struct {
	out  *out
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (o *out) authority(file, name string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if o.err = errors.Join(o.err, err); o.err != nil {
		return &authority{out: o}
	}
	cert := template(name)
	cert.IsCA, cert.BasicConstraintsValid, cert.KeyUsage = true, true, x509.KeyUsageCertSign
	o.certificate(file, cert, cert, key, key)
	return &authority{out: o, cert: cert, key: key}
}

// issue writes name.crt and name.key.
func (a *authority) issue(name string, hosts []string, uses ...x509.ExtKeyUsage) {
	o := a.out
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if o.err = errors.Join(o.err, err); o.err != nil {
		return
	}
	leaf := template(name)
	leaf.DNSNames = hosts
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = uses
	o.certificate(name+".crt", leaf, a.cert, key, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	o.err = errors.Join(o.err, err)
	o.write(name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func (o *out) certificate(file string, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	o.err = errors.Join(o.err, err)
	o.write(file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func template(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity),
	}
}
