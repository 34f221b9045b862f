package main

// object is a JSON object. Its keys are written in order, so the same board is always the same text.
type object = map[string]any

// tag is the common tag of all boards, which links them.
const tag = "sendhouse"

// schemaVersion is the version of Grafana's dashboard format written here. Later versions of Grafana convert it.
const schemaVersion = 39

// gridWidth is the number of columns of Grafana's grid.
const gridWidth = 24

// board is a dashboard: rows of panels, from the top.
type board struct {
	uid, title, description string
	from                    string // the default start of the time range
	variables               []object
	rows                    []row
}

// row is a heading with panels below it, which fill the lines from the left.
type row struct {
	title  string
	panels []panel
}

func (b board) json() object {
	var panels []object
	id, y := 0, 0
	for _, r := range b.rows {
		id++
		panels = append(panels, object{
			"id": id, "type": "row", "title": r.title, "collapsed": false, "panels": []any{},
			"gridPos": object{"x": 0, "y": y, "w": gridWidth, "h": 1},
		})
		y++
		x, lineHeight := 0, 0
		for _, p := range r.panels {
			if x+p.width > gridWidth {
				x, y, lineHeight = 0, y+lineHeight, 0
			}
			id++
			panels = append(panels, p.json(id, x, y))
			x, lineHeight = x+p.width, max(lineHeight, p.height)
		}
		y += lineHeight
	}
	return object{
		"uid": b.uid, "title": b.title, "description": b.description, "tags": []string{tag},
		"schemaVersion": schemaVersion, "version": 1, "editable": true, "graphTooltip": 1, "timezone": "", "refresh": "30s",
		"time":        object{"from": b.from, "to": "now"},
		"templating":  object{"list": b.variables},
		"annotations": object{"list": []any{}},
		"links": []object{{
			"type": "dashboards", "title": "Sendhouse", "tags": []string{tag}, "asDropdown": false, "includeVars": true, "keepTime": true, "targetBlank": false,
		}},
		"panels": panels,
	}
}

// metricVariables returns the variables that select jobs, instances and partitions.
func metricVariables(partitions bool) []object {
	all := []object{
		{"name": "prometheus", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": object{"text": "Prometheus", "value": prometheusUID}},
		labelVariable("job", "Job", `label_values(sendhouse_build_info, job)`),
		labelVariable("instance", "Instance", `label_values(sendhouse_build_info{job=~"$job"}, instance)`),
	}
	if partitions {
		all = append(all, labelVariable("partition", "Partition", `label_values(sendhouse_ingest_queue_sends{job=~"$job"}, partition)`))
	}
	return all
}

func labelVariable(name, label, query string) object {
	return object{
		"name": name, "label": label, "type": "query", "datasource": prometheus,
		"query": object{"query": query, "refId": name}, "definition": query,
		"refresh": 2, "sort": 3, "multi": true, "includeAll": true, "allValue": ".*",
		"current": object{"text": []string{"All"}, "value": []string{"$__all"}},
	}
}

// The provisioned data sources. Boards refer to them by variables, so that a user can choose others.
const (
	prometheusUID = "sendhouse-prometheus"
	clickHouseUID = "sendhouse-clickhouse"
)

var (
	prometheus = object{"type": "prometheus", "uid": "${prometheus}"}                    //nolint:gochecknoglobals // never written
	clickHouse = object{"type": "grafana-clickhouse-datasource", "uid": "${clickhouse}"} //nolint:gochecknoglobals // never written
)
