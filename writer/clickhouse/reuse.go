package clickhouse

import (
	"reflect"
	"sync"

	drivercolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// keptColumns are the driver's columns of inserts that are over. A batch of the driver begins with empty ones, which grow with each
// row that is appended; here it gets those of an earlier batch, emptied. What is not used from one garbage collection to the next but
// one goes.
type keptColumns struct{ pool sync.Pool }

// lend moves what was kept, if anything was, into the columns of a new batch that are the same.
func (k *keptColumns) lend(to []drivercolumn.Interface) {
	kept, ok := k.pool.Get().(*[]drivercolumn.Interface)
	if !ok || len(*kept) != len(to) {
		return
	}
	for i, from := range *kept {
		if to[i].Name() == from.Name() && to[i].Type() == from.Type() && reflect.TypeOf(to[i]) == reflect.TypeOf(from) {
			reflect.ValueOf(to[i]).Elem().Set(reflect.ValueOf(from).Elem())
		}
	}
}

// keep takes the columns of a batch that has arrived. With one that has failed, the driver may not be done yet.
func (k *keptColumns) keep(columns []drivercolumn.Interface) {
	for _, c := range columns {
		c.Reset()
	}
	k.pool.Put(&columns)
}
