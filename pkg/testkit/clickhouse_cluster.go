package testkit

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// clickHouseSession is after how long without a word from it the others take a ClickHouse server for gone.
const clickHouseSession = 4 * zooKeeperTick

// ClickHouseCluster is ClickHouse servers of Debian's that are shards and replicas of each other.
type ClickHouseCluster struct {
	Name      string
	ZooKeeper *ZooKeeperServer
	Shards    [][]*ClickHouseServer // by shard and replica
}

// StartClickHouseCluster starts servers for so many shards with so many replicas each, and a ZooKeeper. Each has the macros shard and replica.
func StartClickHouseCluster(t testing.TB, name string, shards, replicas int) *ClickHouseCluster {
	t.Helper()
	c := &ClickHouseCluster{Name: name, ZooKeeper: StartZooKeeper(t), Shards: make([][]*ClickHouseServer, shards)}
	ports := make([]int, shards*replicas)
	for i := range ports {
		ports[i] = FreePort(t)
	}
	common := c.config(ports, replicas)
	for i, port := range ports {
		shard, replica := i/replicas, i%replicas
		server := newClickHouse(t, ClickHouseOptions{Port: port, Config: fmt.Sprintf("%s<macros><shard>%02d</shard><replica>r%d</replica></macros>\n", common, shard+1, replica+1)})
		c.Shards[shard] = append(c.Shards[shard], server)
		server.Launch()
	}
	for _, server := range c.Servers() {
		server.WaitReady()
	}
	return c
}

// Servers are all of them.
func (c *ClickHouseCluster) Servers() []*ClickHouseServer {
	var all []*ClickHouseServer
	for _, shard := range c.Shards {
		all = append(all, shard...)
	}
	return all
}

// config is the part of the configuration that all servers share.
func (c *ClickHouseCluster) config(ports []int, replicas int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "<zookeeper><node><host>127.0.0.1</host><port>%d</port></node><session_timeout_ms>%d</session_timeout_ms></zookeeper>\n",
		c.ZooKeeper.Port, clickHouseSession/time.Millisecond)
	text.WriteString("<distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>\n<remote_servers><" + c.Name + ">\n")
	for i, port := range ports {
		if i%replicas == 0 {
			text.WriteString("<shard><internal_replication>true</internal_replication>")
		}
		fmt.Fprintf(&text, "<replica><host>127.0.0.1</host><port>%d</port></replica>", port)
		if i%replicas == replicas-1 {
			text.WriteString("</shard>\n")
		}
	}
	text.WriteString("</" + c.Name + "></remote_servers>\n")
	return text.String()
}
