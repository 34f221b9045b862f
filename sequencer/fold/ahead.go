package fold

// aheadMax is how many sends are looked up together: enough that their loads overlap, few enough that what they load
// is still in the first cache when it is used.
const aheadMax = 32

// lookup is where the tables have a send.
type lookup struct {
	key     [2]uint64 // in the window; of no use where the send has no client_msg_no
	content uint64
	channel uint64 // hash
}

// lookAhead hashes the next sends, and reads where the tables have them or would have them. A table of a million lies outside of
// the caches, and one send's lookups have to wait for each other; those of many sends do not, so the processor loads for all of
// them at one time what apply would have to wait for send by send. What the sends become does not depend on it.
func (s *State) lookAhead(effects []Effect) {
	for i := range effects {
		v, at := &effects[i].View, &s.ahead[i]
		at.key, at.content = s.window.keyOf(v), contentOf(effects[i].Send)
		at.channel = s.channels.hash(v.ChannelType, v.ChannelID)
	}
	var entries [aheadMax]uint32
	read := uint64(0) // so that the compiler leaves the reading in
	for i := range effects {
		at := &s.ahead[i]
		entries[i] = s.channels.likely(at.channel)
		read += uint64(s.window.index[s.window.slot(at.key)].pos)
	}
	read += s.window.readOldest(s.window.len() + len(effects) - s.params.DedupEntriesMax) // those that will be evicted
	var names [aheadMax]nameRef
	for i := range effects {
		if entries[i] > 0 {
			names[i] = s.channels.entries.at(uint64(entries[i] - 1)).name
		}
	}
	for i := range effects {
		if entries[i] > 0 {
			channelType, _ := s.channels.arena.get(names[i])
			read += uint64(channelType)
		}
	}
	s.read += read
}
