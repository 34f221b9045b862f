package topology

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// LogForm is the form of the records in the logs that this program reads and writes. Form 2: a record of the message log holds what
// a group commit became (docs/adr/0012).
const LogForm = 2

// The keys of a stream's metadata that say which deployment it belongs to, and with which parameters.
const (
	metadataID           = "sendhouse.deployment"
	metadataPartitions   = "sendhouse.partitions"
	metadataDedupWindow  = "sendhouse.dedup_window"
	metadataDedupEntries = "sendhouse.dedup_entries_max"
	metadataLogForm      = "sendhouse.log_form"
)

// ErrNoIdentity says that a stream's metadata name no deployment: a version that knew no identity made the stream.
var ErrNoIdentity = errors.New("the metadata name no deployment")

// Metadata are what each stream and bucket of the deployment carries: its ID and the parameters that decide answers, so that
// the deployment's record can be made again from them. A deployment without an ID has none.
func (d Deployment) Metadata() map[string]string {
	if d.ID == "" {
		return nil
	}
	return map[string]string{
		metadataID:           d.ID,
		metadataPartitions:   strconv.Itoa(d.Partitions),
		metadataDedupWindow:  d.DedupWindow.String(),
		metadataDedupEntries: strconv.Itoa(d.DedupEntriesMax),
		metadataLogForm:      strconv.Itoa(LogForm),
	}
}

// MetadataID is the ID of the deployment that a stream's metadata name, empty if they name none.
func MetadataID(metadata map[string]string) string { return metadata[metadataID] }

// ParseMetadata is the inverse of Metadata. The error wraps ErrNoIdentity if the metadata name no deployment; metadata of
// another LogForm, or with a parameter that cannot be read or is out of its range, are an error too.
func ParseMetadata(metadata map[string]string) (Deployment, error) {
	d := Deployment{ID: metadata[metadataID]}
	if d.ID == "" {
		return Deployment{}, ErrNoIdentity
	}
	var errs []error
	number := func(key string) int {
		n, err := strconv.Atoi(metadata[key])
		if err != nil {
			errs = append(errs, fmt.Errorf("metadata %s %q: must be a number", key, metadata[key]))
		}
		return n
	}
	d.Partitions, d.DedupEntriesMax = number(metadataPartitions), number(metadataDedupEntries)
	if form := number(metadataLogForm); form != LogForm && errs == nil {
		errs = append(errs, fmt.Errorf("metadata %s %d: this program reads and writes form %d", metadataLogForm, form, LogForm))
	}
	var err error
	if d.DedupWindow, err = time.ParseDuration(metadata[metadataDedupWindow]); err != nil {
		errs = append(errs, fmt.Errorf("metadata %s: %w", metadataDedupWindow, err))
	}
	if errs == nil {
		errs = append(errs, d.Check())
	}
	return d, errors.Join(errs...)
}
