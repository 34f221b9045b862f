package clickhouse

import (
	"reflect"
	"slices"
	"sync"
	"time"

	drivercolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// keptFor is the minimum time for which unused columns are kept; the maximum is twice that.
const keptFor = 30 * time.Second

// keptColumns holds the driver's columns of finished inserts. A driver's batch starts with empty columns, which grow with
// each row up to the size of all rows; here it receives those of an earlier batch, emptied. There are as many sets as
// inserts recently ran concurrently. The zero value is empty.
type keptColumns struct {
	mu     sync.Mutex
	sets   [][]drivercolumn.Interface // a stack: the latest is lent first
	unused int                        // number of sets, from the first on, unused since the last drop
	timer  *time.Timer                // calls drop; runs while there are sets
}

// lend moves a kept set, if there is one, into the matching columns of a new batch.
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

// keep takes the columns of a batch that succeeded. After a failure the driver may still use them.
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

// drop frees the sets that were not used since its last call.
func (k *keptColumns) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sets = slices.Delete(k.sets, 0, k.unused)
	k.unused = len(k.sets)
	if k.timer = nil; len(k.sets) > 0 {
		k.timer = time.AfterFunc(keptFor, k.drop)
	}
}
