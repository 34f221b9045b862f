package message_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/sendhouse/sendhouse/pkg/message"
)

func drawSend(t *rapid.T) *message.Send {
	text := func(label string, most int) string { return rapid.StringN(0, most, -1).Draw(t, label) }
	return &message.Send{
		ChannelId:   text("channel_id", 40),
		ChannelType: rapid.Uint32Range(0, 12).Draw(t, "channel_type"),
		FromUid:     text("from_uid", 40),
		ClientMsgNo: text("client_msg_no", 40),
		NoPersist:   rapid.Bool().Draw(t, "no_persist"),
		RedDot:      rapid.Bool().Draw(t, "red_dot"),
		SyncOnce:    rapid.Bool().Draw(t, "sync_once"),
		StreamNo:    text("stream_no", 10),
		TagKey:      text("tag_key", 10),
		Expire:      rapid.Uint32().Draw(t, "expire"),
		Subscribers: rapid.SliceOfN(rapid.String(), 0, 4).Draw(t, "subscribers"),
		Payload:     rapid.SliceOf(rapid.Byte()).Draw(t, "payload"),
	}
}

func TestBatchRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sends := rapid.SliceOfN(rapid.Custom(drawSend), 0, 5).Draw(t, "sends")
		var batch []byte
		for _, s := range sends {
			before := len(batch)
			var err error
			batch, err = message.AppendSend(batch, s)
			require.NoError(t, err)
			require.LessOrEqual(t, len(batch)-before, s.SizeVT()+message.SendFrameOverheadMax)
		}

		// Any protobuf library reads the batch.
		var decoded message.SendBatch
		require.NoError(t, proto.Unmarshal(batch, &decoded))
		require.Len(t, decoded.GetSends(), len(sends))
		for i, s := range sends {
			require.True(t, proto.Equal(s, decoded.GetSends()[i]))
		}

		for i, rest := 0, batch; len(rest) > 0; i++ {
			var encoded []byte
			var err error
			encoded, rest, err = message.NextSend(rest)
			require.NoError(t, err)
			view, err := message.ViewSend(encoded)
			require.NoError(t, err)
			require.Equal(t, sends[i].GetChannelId(), string(view.ChannelID))
			require.Equal(t, sends[i].GetFromUid(), string(view.FromUID))
			require.Equal(t, sends[i].GetClientMsgNo(), string(view.ClientMsgNo))
			require.Equal(t, sends[i].GetChannelType(), uint32(view.ChannelType))
			require.Equal(t, sends[i].GetNoPersist(), view.NoPersist)
		}
	})
}

func TestMessageIsItsSendAndIdentity(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		send := drawSend(t)
		id := message.Identity{
			ID:       message.ID(rapid.Int64Min(0).Draw(t, "id")),
			Seq:      rapid.Uint64().Draw(t, "seq"),
			WALSeq:   rapid.Uint64().Draw(t, "wal_seq"),
			WALIndex: rapid.Uint32().Draw(t, "wal_index"),
		}
		encoded, err := send.MarshalVT()
		require.NoError(t, err)
		whole := message.AppendMessage(nil, encoded, id)
		require.LessOrEqual(t, len(whole)-len(encoded), message.IdentitySizeMax)

		var m message.Message
		require.NoError(t, m.UnmarshalVT(whole))
		require.Equal(t, uint64(id.ID), m.GetMessageId())
		require.Equal(t, id.Seq, m.GetMessageSeq())
		require.Equal(t, id.WALSeq, m.GetWalSeq())
		require.Equal(t, id.WALIndex, m.GetWalIndex())

		// What is left without the identity is the send.
		m.MessageId, m.MessageSeq, m.WalSeq, m.WalIndex = 0, 0, 0, 0
		back, err := m.MarshalVT()
		require.NoError(t, err)
		require.Equal(t, encoded, back)
	})
}

func TestAnswerRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		answers := rapid.SliceOf(rapid.Custom(func(t *rapid.T) *message.Answer {
			return &message.Answer{
				MessageId:  rapid.Uint64().Draw(t, "id"),
				MessageSeq: rapid.Uint64().Draw(t, "seq"),
				Outcome:    message.Outcome(rapid.Int32Range(0, 2).Draw(t, "outcome")),
			}
		})).Draw(t, "answers")
		var encoded []byte
		for _, a := range answers {
			encoded = message.AppendAnswer(encoded, message.ID(a.GetMessageId()), a.GetMessageSeq(), a.GetOutcome())
		}
		var back message.AnswerBatch
		require.NoError(t, back.UnmarshalVT(encoded))
		require.True(t, proto.Equal(&message.AnswerBatch{Answers: answers}, &back))
	})
}

func TestMessageHasTheFieldsOfSend(t *testing.T) {
	t.Parallel()
	send, msg := (&message.Send{}).ProtoReflect().Descriptor().Fields(), (&message.Message{}).ProtoReflect().Descriptor().Fields()
	for i := range send.Len() {
		want := send.Get(i)
		got := msg.ByNumber(want.Number())
		require.NotNil(t, got, "Message lacks field %d", want.Number())
		require.Equal(t, []any{want.Name(), want.Kind(), want.Cardinality()}, []any{got.Name(), got.Kind(), got.Cardinality()})
	}
	for number, name := range map[protoreflect.FieldNumber]protoreflect.Name{16: "message_id", 17: "message_seq", 18: "wal_seq", 19: "wal_index"} {
		require.Equal(t, name, msg.ByNumber(number).Name())
	}
}

func TestChannelTokenRoundTrip(t *testing.T) {
	t.Parallel()
	check := func(t require.TestingT, name string) {
		token := message.ChannelToken(name)
		require.NotEmpty(t, token)
		require.False(t, strings.ContainsAny(token, ".*> \t\r\n\x00"), "token %q", token)
		require.True(t, utf8.ValidString(token), "token %q", token)
		back, err := message.ParseChannelToken(token)
		require.NoError(t, err)
		require.Equal(t, name, back)
	}
	for _, name := range []string{"", "%", "a.b", "群聊.*>", "a b", "\xff", "a@b____cmd", "\u00a0", "é%41"} {
		check(t, name)
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.String().Draw(t, "name")) })
	rapid.Check(t, func(t *rapid.T) { check(t, string(rapid.SliceOf(rapid.Byte()).Draw(t, "name"))) })
}

func TestParseChannelTokenRefuses(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"%4", "%zz", "%41", "a.b", "%2e", "", "a%", "\xff"} {
		_, err := message.ParseChannelToken(token)
		require.Error(t, err, "token %q", token)
	}
}

func FuzzChannelToken(f *testing.F) {
	for _, seed := range []string{"", "group123", "a@b", "a.b", "群%", "\xf0\x28"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		back, err := message.ParseChannelToken(message.ChannelToken(name))
		require.NoError(t, err)
		require.Equal(t, name, back)
		if parsed, err := message.ParseChannelToken(name); err == nil {
			require.Equal(t, name, message.ChannelToken(parsed))
		}
	})
}

// FuzzView holds the zero-copy reader against the generated one: what both can
// read, they read alike, and bytes that are no send panic in neither.
func FuzzView(f *testing.F) {
	encoded, err := (&message.Send{ChannelId: "g", ChannelType: 2, FromUid: "u", ClientMsgNo: "n", NoPersist: true, Payload: []byte("p")}).MarshalVT()
	require.NoError(f, err)
	f.Add(encoded)
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		view, viewErr := message.ViewSend(b)
		var send message.Send
		if send.UnmarshalVT(b) != nil {
			return // the generated reader also refuses a wrong wire type or UTF-8
		}
		require.NoError(t, viewErr)
		require.Equal(t, send.GetChannelId(), string(view.ChannelID))
		require.Equal(t, send.GetClientMsgNo(), string(view.ClientMsgNo))
		require.Equal(t, send.GetNoPersist(), view.NoPersist)
	})
}

func FuzzNextSend(f *testing.F) {
	batch, err := message.AppendSend(nil, &message.Send{ChannelId: "g", Payload: []byte("p")})
	require.NoError(f, err)
	f.Add(batch)
	f.Fuzz(func(_ *testing.T, b []byte) {
		for len(b) > 0 {
			_, rest, err := message.NextSend(b)
			if err != nil {
				return
			}
			b = rest
		}
	})
}

func TestPersonChannelSymmetric(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		uid := rapid.StringMatching(`[^@]{1,20}`)
		a, b := uid.Draw(t, "a"), uid.Draw(t, "b")
		name := message.PersonChannel(a, b)
		require.Equal(t, name, message.PersonChannel(b, a))

		for _, ask := range []struct{ from, channel string }{{a, b}, {b, a}, {a, a + "@" + b}, {b, a + "@" + b}, {a, b + "@" + a}} {
			got, err := message.CanonicalChannel(ask.from, ask.channel, message.ChannelPerson, false)
			require.NoError(t, err)
			require.Equal(t, name, got)
			got, err = message.CanonicalChannel(ask.from, ask.channel, message.ChannelPerson, true)
			require.NoError(t, err)
			require.Equal(t, name+message.CommandSuffix, got)
		}
	})
}

// FuzzCanonicalChannel: both sides of a person channel, however they name it, name the same channel, and no other uid does.
func FuzzCanonicalChannel(f *testing.F) {
	for _, seed := range [][2]string{{"user123", "group123"}, {"u1", "u2"}, {"a", "a"}, {"", "b"}, {"a", "a@b"}, {"b", "a@b"}, {"c", "a@b"}, {"a", "a@b@c"}, {"群", "张三"}, {"a____cmd", "b"}, {"plumless", "buckeroo"}} {
		f.Add(seed[0], seed[1], uint8(1), true)
		f.Add(seed[0], seed[1], uint8(2), false)
	}
	f.Fuzz(func(t *testing.T, from, channel string, channelType uint8, command bool) {
		kind := message.ChannelType(channelType)
		name, err := message.CanonicalChannel(from, channel, kind, command)
		if err != nil {
			require.ErrorIs(t, err, message.ErrNotAMember)
			require.Equal(t, message.ChannelPerson, kind)
			require.Contains(t, channel, "@")
			return
		}
		plain := name
		if command {
			require.True(t, strings.HasSuffix(name, message.CommandSuffix))
			plain = strings.TrimSuffix(name, message.CommandSuffix)
		}
		if kind != message.ChannelPerson {
			require.Equal(t, channel, plain)
			return
		}
		if strings.Contains(from, "@") || strings.Count(channel, "@") > 1 {
			return // ingest lets no such through
		}
		left, right, _ := strings.Cut(plain, "@")
		require.Contains(t, []string{left, right}, from)
		other := left
		if left == from {
			other = right
		}
		if !strings.Contains(channel, "@") {
			require.Equal(t, channel, other)
		}
		// The other side, and both composed names, mean the same.
		for _, ask := range [][2]string{{other, from}, {from, other}, {from, left + "@" + right}, {other, right + "@" + left}} {
			again, err := message.CanonicalChannel(ask[0], ask[1], kind, command)
			require.NoError(t, err)
			require.Equal(t, name, again)
		}
	})
}

func TestCanonicalChannel(t *testing.T) {
	t.Parallel()
	require.Equal(t, "u2@u1", message.PersonChannel("u1", "u2"))

	got, err := message.CanonicalChannel("u1", "g", message.ChannelGroup, false)
	require.NoError(t, err)
	require.Equal(t, "g", got)

	_, err = message.CanonicalChannel("u3", "u1@u2", message.ChannelPerson, false)
	require.ErrorIs(t, err, message.ErrNotAMember)
}

func TestIDParts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(0, 1<<41-1).Draw(t, "ms")
		partition := rapid.IntRange(0, message.PartitionsMax-1).Draw(t, "partition")
		counter := rapid.IntRange(0, 4095).Draw(t, "counter")
		id := message.MakeID(ms, partition, counter)
		require.GreaterOrEqual(t, id, message.ID(0))
		require.Equal(t, ms, id.Time().Sub(message.Epoch()).Milliseconds())
		require.Equal(t, partition, id.Partition())
		require.Equal(t, counter, id.Counter())
	})
}

func TestIDClockStrictlyIncreases(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		partition := rapid.IntRange(0, message.PartitionsMax-1).Draw(t, "partition")
		clock, err := message.NewIDClock(partition, 0)
		require.NoError(t, err)
		// Jumps either way, before the epoch too, and runs that use a millisecond up.
		times := rapid.SliceOfN(rapid.Int64Range(message.Epoch().UnixMilli()-1000, message.Epoch().UnixMilli()+1000), 1, 50).Draw(t, "times")
		for _, ms := range times {
			for range rapid.IntRange(1, 5000).Draw(t, "run") {
				last := clock.Last()
				id := clock.Next(ms)
				require.Greater(t, id, last)
				require.Equal(t, partition, id.Partition())
				require.GreaterOrEqual(t, id.UnixMilli(), ms)
			}
			// Resumed from its last ID, it goes on the same.
			resumed, err := message.NewIDClock(partition, clock.Last())
			require.NoError(t, err)
			require.Equal(t, clock.Next(ms), resumed.Next(ms))
		}
	})
}

func TestNewIDClockRefuses(t *testing.T) {
	t.Parallel()
	for _, bad := range []struct {
		partition int
		last      message.ID
	}{{-1, 0}, {message.PartitionsMax, 0}, {3, message.MakeID(1, 4, 0)}, {0, -1}} {
		_, err := message.NewIDClock(bad.partition, bad.last)
		require.Error(t, err)
	}
}
