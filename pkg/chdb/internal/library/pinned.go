// Package library knows the build of libchdb that this program runs on, the folder that keeps it, and how to download it.
//
// One build per platform is pinned by version and by the integrity its publisher gave it. A build that is not the pinned one is never
// loaded from the cache, so two machines that run the same commit run the same engine.
package library

import (
	"errors"
	"fmt"
	"runtime"
)

// Pin names one published build of libchdb.
type Pin struct {
	// Platform is the publisher's name of operating system, processor and C library.
	Platform string
	// Package is the npm package that holds the build.
	Package string
	// Version is the package's version: the ClickHouse release line, and the publisher's own third figure.
	Version string
	// Integrity is the package archive's hash in the form of Subresource Integrity: "sha512-" and 64 bytes in base64.
	Integrity string
	// FileName is the name under which the library is kept. Inside the archive it may also have the other of libchdb.so and libchdb.dylib.
	FileName string
}

// ErrUnsupportedPlatform says that no build of libchdb is pinned for this operating system and processor.
var ErrUnsupportedPlatform = errors.New("no libchdb build for this platform")

// pins has one entry per runtime.GOOS/GOARCH. The hash for linux/amd64 is that of the package as fetched and run; those of the others are
// from the lock file that the publisher keeps with the JavaScript binding, which names 26.5.2. For linux/amd64 that lock file's hash was
// compared with the package and is right, and 26.5.2 and 26.5.3 hold the same libchdb byte for byte.
func pins() map[string]Pin {
	return map[string]Pin{
		"linux/amd64": {
			Platform:  "linux-x64-gnu",
			Package:   "@chdb/lib-linux-x64-gnu",
			Version:   "26.5.3",
			Integrity: "sha512-fPrLmRt5Moor9yGz4mazbrNje4t7X9KB2mTGkXFWRxRBs2iKy8yh6jx11xsa0Qr3iDFMU/yHqd+bVdYJXu3QaQ==",
			FileName:  "libchdb.so",
		},
		"linux/arm64": {
			Platform:  "linux-arm64-gnu",
			Package:   "@chdb/lib-linux-arm64-gnu",
			Version:   "26.5.2",
			Integrity: "sha512-BayHMFnyxGp3/na9Wz3jfhXk6SxY+Kxv3u7pVsZ67JViDkAhMdVTGAcGvNbv9HESrC65mk0r4yjhaz5HB9pEGg==",
			FileName:  "libchdb.so",
		},
		"darwin/arm64": {
			Platform:  "darwin-arm64",
			Package:   "@chdb/lib-darwin-arm64",
			Version:   "26.5.2",
			Integrity: "sha512-dJGw6uLmBQegU0ddWsG2N9E+uSKCW0CJqYBZK5qlz+D9hXxGGnm7Ox8Uo/nQ870Q/1qKbrTF2Zp9BOEHokluhQ==",
			FileName:  "libchdb.dylib",
		},
	}
}

// Pinned returns the build for the platform this program was compiled for, or ErrUnsupportedPlatform.
func Pinned() (Pin, error) {
	return pinnedFor(runtime.GOOS, runtime.GOARCH)
}

func pinnedFor(goos, goarch string) (Pin, error) {
	pin, ok := pins()[goos+"/"+goarch]
	if !ok {
		return Pin{}, fmt.Errorf("%w: %s/%s (there are builds for linux/amd64 and linux/arm64 with glibc, and darwin/arm64); "+
			"use a ClickHouse server instead, or set %s to a libchdb of your own", ErrUnsupportedPlatform, goos, goarch, EnvPath)
	}
	return pin, nil
}
