// Package config turns a command line, the environment and a YAML file into the
// structs that the roles are configured with.
//
// A value is looked for in four places, and the first that has it wins:
//
//  1. the flag: --api-addr=127.0.0.1:5001
//  2. the environment: SENDHOUSE_API_ADDR=127.0.0.1:5001, the flag's name in
//     capitals after the prefix
//  3. the YAML file named by --config or SENDHOUSE_CONFIG: "api-addr: 127.0.0.1:5001"
//  4. the default in the struct tag
//
// The file is flat: each top-level key is the name of a flag of any command, so
// that one file can be shared by `up` and by each role run alone. A key that no
// command knows, and a value that its flag cannot hold, are errors that name the
// file, the line and the key, whichever command is run. They are found before
// anything is started.
//
// So is a variable SENDHOUSE_… that no command knows, except those that Kubernetes
// sets for a Service named sendhouse. An empty variable counts as absent.
//
// Numbers are decimal in all four places.
package config
