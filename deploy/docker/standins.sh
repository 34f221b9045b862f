#!/usr/bin/env bash
# Makes stand-ins for the images that the Dockerfile builds on, from Debian's packages and this machine's Go and Node.js, for a
# machine that reaches no registry. For `make image` only: what is built on them is not to be shipped. Run as root; wants
# buildah and debootstrap.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
certificates=/etc/ssl/certs/ca-certificates.crt

# commit NAME FOLDER [buildah-config flags]: an image of a folder.
commit() {
  local name=$1 folder=$2 container
  shift 2
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$folder" /
  buildah config "$@" "$container"
  buildah commit --quiet --rm "$container" "$name"
}
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

debootstrap --variant=minbase --include=ca-certificates,gcc,git,libc6-dev,make bookworm "$work/golang" >"$work/log"
cp -a "$(go env GOROOT)" "$work/golang/usr/local/go"
cp "$certificates" "$work/golang$certificates"
commit docker.io/library/golang:1.26-bookworm "$work/golang" --env GOPATH=/go --env GOTOOLCHAIN=local --env PATH="/go/bin:/usr/local/go/bin:$path"

# Like the real one it has no certificates but those in Node.js; npm reads those of this machine from a file.
debootstrap --variant=minbase bookworm "$work/node" >"$work/log"
mkdir -p "$work/node/usr/local/lib/node_modules" "$work/node/usr/local/etc"
cp -L "$(command -v node)" "$work/node/usr/local/bin/node"
cp -a "$(npm root -g)/npm" "$work/node/usr/local/lib/node_modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$work/node/usr/local/bin/npm"
cp "$certificates" "$work/node/usr/local/etc/certificates.crt"
echo cafile=/usr/local/etc/certificates.crt >"$work/node/usr/local/etc/npmrc"
commit docker.io/library/node:24-bookworm-slim "$work/node" --env PATH="$path"

# The packages that distroless/cc-debian12 is made of, and its users.
mkdir -p "$work/packages" "$work/cc"
(cd "$work/packages" && apt-get download -qq base-files ca-certificates gcc-12-base libc6 libgcc-s1 libgomp1 libssl3 libstdc++6 netbase tzdata)
for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$work/cc"; done
mkdir -p "$work/cc/home/nonroot" "$work/cc/tmp"
chmod 1777 "$work/cc/tmp"
chown 65532:65532 "$work/cc/home/nonroot"
printf '%s\n' root:x:0:0:root:/root:/sbin/nologin nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin >"$work/cc/etc/passwd"
printf '%s\n' root:x:0: nobody:x:65534: nonroot:x:65532: >"$work/cc/etc/group"
echo 'hosts: files dns' >"$work/cc/etc/nsswitch.conf"
cp "$certificates" "$work/cc$certificates"
commit gcr.io/distroless/cc-debian12:nonroot "$work/cc" --env PATH="$path" --env SSL_CERT_FILE="$certificates" --user 65532 --workingdir /home/nonroot
