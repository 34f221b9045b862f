package chdb

import (
	"time"
)

const (
	// purgeInterval is how often memory that the engine has freed is given back to the system while there is work. Its allocator keeps
	// such memory: after five inserts of a million rows 620 MB stayed resident, and 208 MB after a purge, which took 35 ms.
	purgeInterval = 5 * time.Second
	// purgesAfterWork is how many purges follow the last statement, for the merges that it set off.
	purgesAfterWork = 12
	// killInterval is how long to wait before asking again for the end of a query.
	killInterval = 100 * time.Millisecond
	// killTimeout is how long Close waits for statements that it has asked to end.
	killTimeout = 10 * time.Second
)

// maintain returns freed memory to the system until quit is closed.
func (e *Engine) maintain(quit <-chan struct{}) {
	ticker := time.NewTicker(purgeInterval)
	defer ticker.Stop()
	seen, left := e.finished.Load(), 0
	for {
		select {
		case <-quit:
			return
		case <-ticker.C:
		}
		if now := e.finished.Load(); now != seen {
			seen, left = now, purgesAfterWork
		}
		if left == 0 {
			continue
		}
		left--
		if err := e.command("SYSTEM JEMALLOC PURGE"); err != nil {
			e.log.Warn("ClickHouse cannot return freed memory to the system; its resident size stays at its peak", "error", err)
			return
		}
	}
}

// command runs a statement of the engine's own, past the limits.
func (e *Engine) command(sql string) error {
	conn, err := e.lib.open(e.arguments)
	if err != nil {
		return err
	}
	defer conn.close()
	return conn.run(sql)
}

// kill asks the engine to end the query with the given log_comment, again and again until done is closed: the query may not have begun, or
// may be at a point at which it does not look.
func (e *Engine) kill(comment string, done <-chan struct{}) {
	ticker := time.NewTicker(killInterval)
	defer ticker.Stop()
	sql := "KILL QUERY WHERE Settings['log_comment'] = " + quoteString(comment) + " ASYNC"
	for {
		if err := e.command(sql); err != nil {
			e.log.Warn("cannot end a ClickHouse query", "query", comment, "error", err)
		}
		select {
		case <-done:
			return
		case <-ticker.C:
		}
	}
}

// waitIdle waits for the statements that run, ends them after CloseTimeout, and reports whether all have ended.
func (e *Engine) waitIdle() bool {
	idle := make(chan struct{})
	go func() { // Ends with the last statement.
		e.statements.Wait()
		close(idle)
	}()
	if waitFor(idle, e.config.CloseTimeout) {
		return true
	}
	e.log.Warn("ClickHouse statements still run and are ended now", "waited", e.config.CloseTimeout)
	e.endStatements()
	return waitFor(idle, killTimeout)
}

func waitFor(done <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
