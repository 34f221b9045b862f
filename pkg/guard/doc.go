// Package guard keeps web pages away from the listeners of a process. A page in a browser can reach whatever the browser's machine can
// reach, so that a listener on a loopback address is no more private than the pages that its users look at:
//
//   - A page can give a name of its own the address of a listener and is then of one origin with it (DNS rebinding). The request has that
//     name in its Host header, and it is refused there: see Names.
//   - A page can send requests across origins without being allowed to read the answers. Those that may change something are refused by
//     what the browser says of their origin (Sec-Fetch-Site, Origin): that is [http.CrossOriginProtection].
//
// Programs other than browsers send neither of these two headers, and an address or a local name as the host.
package guard
