package clickhouse

import "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

// WrapConn puts something between the client and its connections.
func (c *Client) WrapConn(wrap func(driver.Conn) driver.Conn) { c.conn = wrap(c.conn) }
