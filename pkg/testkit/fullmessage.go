package testkit

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sendhouse/sendhouse/pkg/message"
)

// FullMessage is a message that can be stored and in which every field of the .proto has a value of its own, different for each n. A test
// that holds something against the description of a message uses it, so that a new field is part of the test by itself.
func FullMessage(n int) *message.Message {
	m := &message.Message{}
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		text := fmt.Sprintf("%s %d\x00'\\群", f.Name(), n)
		number := uint64(1000*i + n%1000)
		var value protoreflect.Value
		switch {
		case f.IsList():
			list := m.ProtoReflect().NewField(f).List()
			list.Append(protoreflect.ValueOfString(text))
			list.Append(protoreflect.ValueOfString("other"))
			value = protoreflect.ValueOfList(list)
		case f.Kind() == protoreflect.StringKind:
			value = protoreflect.ValueOfString(text)
		case f.Kind() == protoreflect.BytesKind:
			value = protoreflect.ValueOfBytes([]byte(text))
		case f.Kind() == protoreflect.BoolKind:
			value = protoreflect.ValueOfBool(true)
		case f.Kind() == protoreflect.Uint32Kind:
			value = protoreflect.ValueOfUint32(uint32(number))
		default:
			value = protoreflect.ValueOfUint64(number)
		}
		m.ProtoReflect().Set(f, value)
	}
	// What a stored message cannot have otherwise.
	m.NoPersist, m.ChannelType, m.Expire = false, uint32(2+n%10), 4_000_000_000+uint32(n)
	m.MessageId = uint64(message.MakeID(60_000_000_000+int64(n), 3, n%4096))
	m.Timestamp = uint64(message.ID(m.GetMessageId()).UnixMilli()) - 1000
	return m
}
