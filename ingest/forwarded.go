package ingest

import (
	"net/http"
	"net/netip"
	"strings"
)

// clientAddress is the address that a request comes from: that of its connection or, where that is a
// trusted proxy, the last one in X-Forwarded-For that is not. A proxy appends the address that it
// saw, so what stands further left is what the client says of itself, and proves nothing.
func clientAddress(r *http.Request, trusted []netip.Prefix) (addr netip.Addr, ok bool) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	addr = peer.Addr().Unmap()
	if len(trusted) == 0 || !within(addr, trusted) {
		return addr, true
	}
	lines := r.Header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			var hop string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, hop = rest[:comma], rest[comma+1:]
			} else {
				hop, more = rest, false
			}
			next, err := forwardedFor(strings.TrimSpace(hop))
			if err != nil {
				return addr, true // what is left of it cannot be told
			}
			if addr = next; !within(addr, trusted) {
				return addr, true
			}
		}
	}
	return addr, true // they are all proxies
}

// forwardedFor reads an address, with or without a port, as proxies write it.
func forwardedFor(hop string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(hop, "["), "]"))
	if err == nil {
		return addr.Unmap(), nil
	}
	withPort, err := netip.ParseAddrPort(hop)
	return withPort.Addr().Unmap(), err
}

func within(addr netip.Addr, prefixes []netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// parseProxies reads networks (10.0.0.0/8) and single addresses.
func parseProxies(texts []string) (prefixes []netip.Prefix, err error) {
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil {
				return nil, err
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
}
