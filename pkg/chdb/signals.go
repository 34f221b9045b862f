package chdb

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// The Go runtime owns the signals of the process: it turns SIGSEGV into a panic that can be recovered. libchdb would replace those
// handlers when the engine starts. Asked not to, by chdb_set_signal_handlers_enabled(0), it resets SIGILL, SIGTRAP, SIGABRT, SIGBUS,
// SIGFPE, SIGSEGV, SIGSYS and SIGTSTP to their defaults instead, then and at each later connect, so that the next nil dereference anywhere
// in the process kills it without a word. Hence the order in startEngine: remember Go's handlers, ask, start the engine, take the request
// back so that later connects leave the signals alone, and put Go's handlers where they were.

// signalMax is the last of the signals kept. Those above are the C library's own and the real-time ones, which libchdb does not touch.
const signalMax = 31

// sigactionBytes is more than struct sigaction has on any platform (152 on Linux with glibc, 16 on macOS).
const sigactionBytes = 256

// signalGuard keeps and restores the process's signal handlers through the C library, which is already loaded.
type signalGuard struct {
	sigaction func(signal int32, action, old unsafe.Pointer) int32
}

// signalHandlers are the C library's descriptions of the handlers, kept opaque.
type signalHandlers [signalMax + 1][sigactionBytes]byte

func (g *signalGuard) bind() error {
	name := "" // The process itself.
	if runtime.GOOS == "darwin" {
		name = "/usr/lib/libSystem.B.dylib"
	}
	handle, err := purego.Dlopen(name, purego.RTLD_NOW)
	if err != nil {
		return fmt.Errorf("find the C library: %w", err)
	}
	address, err := purego.Dlsym(handle, "sigaction")
	if err != nil {
		return fmt.Errorf("find sigaction in the C library: %w", err)
	}
	purego.RegisterFunc(&g.sigaction, address)
	return nil
}

func (g *signalGuard) save() *signalHandlers {
	handlers := new(signalHandlers)
	for signal := 1; signal <= signalMax; signal++ {
		g.sigaction(int32(signal), nil, unsafe.Pointer(&handlers[signal]))
	}
	return handlers
}

// restore puts the handlers back. SIGKILL and SIGSTOP have none and refuse; that is no matter.
func (g *signalGuard) restore(handlers *signalHandlers) {
	for signal := 1; signal <= signalMax; signal++ {
		g.sigaction(int32(signal), unsafe.Pointer(&handlers[signal]), nil)
	}
	runtime.KeepAlive(handlers)
}

// startEngine opens the first connection of the process, which starts the engine, and leaves the signals to Go.
func (b *binding) startEngine(arguments []string) (*connection, error) {
	handlers := b.signals.save()
	defer b.signals.restore(handlers)
	b.setSignalHandlers(0)
	conn, err := b.open(arguments)
	b.setSignalHandlers(1)
	return conn, err
}
