package message_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// kindOf is how a field of the .proto is described.
func kindOf(f protoreflect.FieldDescriptor) message.Kind {
	switch {
	case f.IsList():
		return message.Texts
	case f.Kind() == protoreflect.StringKind:
		return message.Text
	case f.Kind() == protoreflect.BytesKind:
		return message.Bytes
	case f.Kind() == protoreflect.BoolKind:
		return message.Flag
	default:
		return message.Number
	}
}

// Every field of the .proto is described, by what it is, and the description reads it.
func TestEveryFieldIsDescribed(t *testing.T) {
	t.Parallel()
	described := make(map[string]message.Field)
	for _, f := range message.Fields() {
		require.NotContains(t, described, f.Name, "described twice")
		described[f.Name] = f
	}
	send := (&message.Send{}).ProtoReflect().Descriptor().Fields()
	fields := (&message.Message{}).ProtoReflect().Descriptor().Fields()
	for i := range send.Len() {
		require.NotNil(t, fields.ByName(send.Get(i).Name()), "Send has %s, and Message has not", send.Get(i).Name())
	}
	for i := range fields.Len() {
		proto := fields.Get(i)
		name := string(proto.Name())
		f, ok := described[name]
		require.True(t, ok, "%s is not described: see Fields", name)
		delete(described, name)
		origin := message.FromIdentity
		if send.ByName(proto.Name()) != nil {
			origin = message.FromSend
		}
		require.Equal(t, origin, f.Origin, name)
		if f.Kind != message.Time {
			require.Equal(t, kindOf(proto), f.Kind, name)
		}
		requireReads(t, f, proto)
	}
	for name, f := range described {
		require.Equal(t, message.FromPlace, f.Origin, "%s is described and not in the .proto", name)
	}
}

// requireReads sets one field of a message alone, and wants the description to read it out of the encoding.
func requireReads(t *testing.T, f message.Field, proto protoreflect.FieldDescriptor) {
	t.Helper()
	m := &message.Message{}
	switch f.Kind {
	case message.Texts:
		m.ProtoReflect().Mutable(proto).List().Append(protoreflect.ValueOfString("value"))
	case message.Text:
		m.ProtoReflect().Set(proto, protoreflect.ValueOfString("value"))
	case message.Bytes:
		m.ProtoReflect().Set(proto, protoreflect.ValueOfBytes([]byte("value")))
	case message.Flag:
		m.ProtoReflect().Set(proto, protoreflect.ValueOfBool(true))
	default:
		if proto.Kind() == protoreflect.Uint32Kind {
			m.ProtoReflect().Set(proto, protoreflect.ValueOfUint32(1))
		} else {
			m.ProtoReflect().Set(proto, protoreflect.ValueOfUint64(1))
		}
	}
	encoded, err := m.MarshalVT()
	require.NoError(t, err)
	var s message.Stored
	require.NoError(t, s.Decode(encoded))
	switch f.Kind {
	case message.Texts:
		require.Equal(t, []string{"value"}, f.Texts(&s), f.Name)
	case message.Text, message.Bytes:
		require.Equal(t, "value", f.Text(&s), f.Name)
	default:
		require.EqualValues(t, 1, f.Number(&s), f.Name)
	}
}

// A message that is decoded after another has nothing of it.
func TestDecodeAgain(t *testing.T) {
	t.Parallel()
	var s message.Stored
	for _, want := range []*message.Message{
		{ChannelId: "c", Payload: []byte("p"), Subscribers: []string{"a", "b"}, NoPersist: true, MessageId: 1, Timestamp: 7},
		{FromUid: "u"},
		{Subscribers: []string{"d"}},
	} {
		encoded, err := want.MarshalVT()
		require.NoError(t, err)
		require.NoError(t, s.Decode(encoded))
		require.True(t, want.EqualVT(&s.Message), "want %v, have %v", want, &s.Message)
	}
	s.Release()
	require.True(t, (&message.Message{}).EqualVT(&s.Message))
}

// Decoding allocates nothing, whatever the message has.
func BenchmarkDecode(b *testing.B) {
	var s message.Stored
	encoded := benchMessage(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Decode(encoded); err != nil {
			b.Fatal(err)
		}
	}
}

func benchMessage(b *testing.B) []byte {
	b.Helper()
	encoded, err := (&message.Message{
		ChannelId: "channel-01234", ChannelType: 2, FromUid: "user-01234", ClientMsgNo: "0192f3c4-5d6e-7f80-9a1b-012345678901", TagKey: "important", RedDot: true,
		Payload: make([]byte, 120), Subscribers: []string{"a", "b"}, MessageId: 1 << 40, MessageSeq: 7, WalSeq: 1 << 20, WalIndex: 3,
	}).MarshalVT()
	require.NoError(b, err)
	return encoded
}

// What the fold reads of a send, by hand and by the generated code: a plain send, and a command with a list of receivers.
func BenchmarkViewSend(b *testing.B) {
	for name, receivers := range map[string]int{"plain": 0, "command": 100} {
		send := &message.Send{
			ChannelId: "channel-01234", ChannelType: 2, FromUid: "user-01234", ClientMsgNo: "0192f3c4-5d6e-7f80-9a1b-012345678901", TagKey: "important",
			RedDot: true, Payload: make([]byte, 120), Subscribers: make([]string, receivers),
		}
		encoded, err := send.MarshalVT()
		require.NoError(b, err)
		b.Run(name+"/view", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := message.ViewSend(encoded); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/generated", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var send message.Send
				if err := send.UnmarshalVTUnsafe(encoded); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
