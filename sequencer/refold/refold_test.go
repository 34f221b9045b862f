package refold

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sendhouse/sendhouse/sequencer/fold"
	"github.com/sendhouse/sendhouse/sequencer/internal/sequencertest"
	"github.com/sendhouse/sendhouse/sequencer/natslog"

	"github.com/stretchr/testify/require"
)

func TestFoldingNoticesThatTheLogIsTrimmed(t *testing.T) {
	t.Parallel()
	for name, left := range map[string]uint64{"some is left": 2, "nothing is left": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := sequencertest.Setup(t)
			for i := range 5 {
				h.Publish(sequencertest.Send("c", fmt.Sprint(i)))
			}
			state, err := fold.New(h.Params())
			require.NoError(t, err)
			logs := natslog.New(h.JS, 0)
			require.NoError(t, logs.TrimWAL(h.Ctx, 6-left))
			err = To(h.Ctx, logs, state, 5, func([]fold.Effect) error { return errors.New("there was nothing to fold") })
			require.ErrorIs(t, err, ErrTrimmed)
		})
	}
}
