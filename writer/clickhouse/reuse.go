package clickhouse

import (
	"reflect"
	"slices"
	"sync"
	"time"

	drivercolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// keptFor is how long columns are kept that no insert uses, at least; twice that at most.
const keptFor = 30 * time.Second

// keptColumns are the driver's columns of inserts that are over. A batch of the driver begins with empty ones, which grow with each
// row that is appended, and are as large as the rows in the end; here it gets those of an earlier batch, emptied. There are as many as
// inserts have been under way at one time lately. The zero value keeps nothing yet.
type keptColumns struct {
	mu     sync.Mutex
	sets   [][]drivercolumn.Interface // the latest is lent first
	unused int                        // of sets, from the first on: since drop was last called
	timer  *time.Timer                // calls drop; runs while there are sets
}

// lend moves what was kept, if anything was, into the columns of a new batch that are the same.
func (k *keptColumns) lend(to []drivercolumn.Interface) {
	kept := k.take()
	if len(kept) != len(to) {
		return
	}
	for i, from := range kept {
		if to[i].Name() == from.Name() && to[i].Type() == from.Type() && reflect.TypeOf(to[i]) == reflect.TypeOf(from) {
			reflect.ValueOf(to[i]).Elem().Set(reflect.ValueOf(from).Elem())
		}
	}
}

func (k *keptColumns) take() []drivercolumn.Interface {
	k.mu.Lock()
	defer k.mu.Unlock()
	last := len(k.sets) - 1
	if last < 0 {
		return nil
	}
	columns := k.sets[last]
	k.sets[last], k.sets = nil, k.sets[:last]
	k.unused = min(k.unused, last)
	return columns
}

// keep takes the columns of a batch that has arrived. With one that has failed, the driver may not be done yet.
func (k *keptColumns) keep(columns []drivercolumn.Interface) {
	for _, c := range columns {
		c.Reset()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sets = append(k.sets, columns)
	if k.timer == nil {
		k.timer = time.AfterFunc(keptFor, k.drop)
	}
}

// drop lets go of what was not used since it was last called.
func (k *keptColumns) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sets = slices.Delete(k.sets, 0, k.unused)
	k.unused = len(k.sets)
	if k.timer = nil; len(k.sets) > 0 {
		k.timer = time.AfterFunc(keptFor, k.drop)
	}
}
