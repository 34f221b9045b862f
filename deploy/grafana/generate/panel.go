package main

import "strings"

// panel is one visualisation. The functions below create its kinds; the methods change defaults.
type panel struct {
	kind, title, unit, description string
	width, height                  int
	targets                        []object
	source                         object
	custom                         object // fieldConfig.defaults.custom
	options                        object
	min, max                       any // of the scale; nil: derived from the values
	steps                          []object
	transformations                []object
	link                           string // uid of the board with details
}

// Units, as Grafana names them.
const (
	perSecond = "cps"
	seconds   = "s"
	bytesIEC  = "bytes"
	count     = "short"
	share     = "percentunit"
)

// q returns a query. In the expression, $at stands for the selected jobs and instances, and $part for those and the selected partitions.
func q(expr, legend string) object {
	const at = `job=~"$job",instance=~"$instance"`
	expr = strings.NewReplacer("$at", at, "$part", at+`,partition=~"$partition"`).Replace(expr)
	return object{"expr": expr, "legendFormat": legend, "datasource": prometheus, "editorMode": "code", "range": true}
}

// quantiles returns three quantiles of a histogram, whose series selector chooses.
func quantiles(histogram, selector string) []object {
	var all []object
	for _, p := range []struct{ q, name string }{{"0.5", "p50"}, {"0.95", "p95"}, {"0.99", "p99"}} {
		all = append(all, q("histogram_quantile("+p.q+", sum by (le) (rate("+histogram+"_bucket{"+selector+"}[$__rate_interval])))", p.name))
	}
	return all
}

func newPanel(kind, title, unit, description string, targets []object) panel {
	for i := range targets {
		targets[i]["refId"] = string(rune('A' + i))
	}
	return panel{kind: kind, title: title, unit: unit, description: description, targets: targets, source: prometheus, width: 8, height: 8, custom: object{}, options: object{}}
}

// lines shows series over time.
func lines(title, unit, description string, targets ...object) panel {
	p := newPanel("timeseries", title, unit, description, targets)
	p.custom = object{"lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false}
	p.options = object{
		"legend":  object{"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": []string{"lastNotNull", "max"}},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}
	p.min = 0
	return p
}

// number shows the current value.
func number(title, unit, description string, targets ...object) panel {
	p := newPanel("stat", title, unit, description, targets)
	p.width, p.height = 4, 4
	p.options = object{
		"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		"colorMode":     "value", "graphMode": "area", "justifyMode": "auto", "textMode": "auto",
	}
	return p
}

// gauges shows the used share of limits.
func gauges(title, description string, targets ...object) panel {
	p := newPanel("bargauge", title, share, description, targets)
	p.options = object{
		"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		"displayMode":   "lcd", "orientation": "horizontal", "showUnfilled": true,
	}
	p.min, p.max = 0, 1
	return p
}

// heat shows a histogram over time.
func heat(title, unit, description, histogram, selector string) panel {
	target := q("sum by (le) (rate("+histogram+"_bucket{"+selector+"}[$__rate_interval]))", "{{le}}")
	target["format"] = "heatmap"
	p := newPanel("heatmap", title, unit, description, []object{target})
	p.options = object{
		"calculate": false, "yAxis": object{"unit": unit, "axisPlacement": "left"}, "cellGap": 1,
		"color":   object{"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "min": 0},
		"tooltip": object{"mode": "single", "yHistogram": true}, "legend": object{"show": true}, "rowsFrame": object{"layout": "auto"},
	}
	return p
}

// table shows the current labels and values of series.
func table(title, description string, targets ...object) panel {
	for _, t := range targets {
		t["format"], t["instant"], t["range"] = "table", true, false
	}
	p := newPanel("table", title, count, description, targets)
	p.options = object{"showHeader": true, "cellHeight": "sm"}
	p.transformations = []object{{"id": "organize", "options": object{"excludeByName": object{"Time": true, "__name__": true, "job": true}}}}
	return p
}

// sql returns a ClickHouse query. The first column of a series is its time.
func sql(text string) object {
	return object{"rawSql": text, "datasource": clickHouse, "editorType": "sql", "pluginVersion": "4.0.0", "queryType": "table", "format": 1}
}

// fromClickHouse returns a panel with ClickHouse as its data source.
func (p panel) fromClickHouse() panel {
	p.source = clickHouse
	for _, t := range p.targets {
		delete(t, "instant")
		delete(t, "range")
		t["format"] = 1
		if p.kind == "timeseries" {
			t["queryType"], t["format"] = "timeseries", 0
		}
	}
	if p.kind == "table" {
		p.transformations = nil
	}
	return p
}

// size sets the width, in 24ths, and the height, in grid rows.
func (p panel) size(width, height int) panel {
	p.width, p.height = width, height
	return p
}

// stacked stacks the lines.
func (p panel) stacked() panel {
	p.custom["stacking"] = object{"mode": "normal", "group": "A"}
	p.custom["fillOpacity"] = 30
	return p
}

// limits colours values from warn and from crit on.
func (p panel) limits(warn, crit float64) panel {
	p.steps = []object{{"color": "green", "value": nil}, {"color": "orange", "value": warn}, {"color": "red", "value": crit}}
	return p.drawLimits()
}

// least colours the values below ok.
func (p panel) least(ok float64) panel {
	p.steps = []object{{"color": "red", "value": nil}, {"color": "green", "value": ok}}
	return p.drawLimits()
}

func (p panel) drawLimits() panel {
	if p.kind == "timeseries" {
		p.custom["thresholdsStyle"] = object{"mode": "dashed"}
	}
	return p
}

// details links to the board with details.
func (p panel) details(uid string) panel {
	p.link = uid
	return p
}

func (p panel) json(id, x, y int) object {
	steps := p.steps
	if steps == nil {
		steps = []object{{"color": "green", "value": nil}}
	}
	defaults := object{"unit": p.unit, "custom": p.custom, "thresholds": object{"mode": "absolute", "steps": steps}, "mappings": []any{}, "color": object{"mode": "palette-classic"}}
	if p.kind == "stat" || p.kind == "bargauge" || p.kind == "table" {
		defaults["color"] = object{"mode": "thresholds"}
	}
	if p.min != nil {
		defaults["min"] = p.min
	}
	if p.max != nil {
		defaults["max"] = p.max
	}
	o := object{
		"id": id, "type": p.kind, "title": p.title, "description": p.description, "datasource": p.source,
		"gridPos": object{"x": x, "y": y, "w": p.width, "h": p.height},
		"targets": p.targets, "options": p.options, "fieldConfig": object{"defaults": defaults, "overrides": []any{}},
	}
	if p.transformations != nil {
		o["transformations"] = p.transformations
	}
	if p.link != "" {
		o["links"] = []object{{"title": "More", "url": "/d/" + p.link + "?${job:queryparam}&${instance:queryparam}&${__url_time_range}"}}
	}
	return o
}
