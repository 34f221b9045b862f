package sequencer

import "context"

// NoteStorage notes whether the write-ahead log of a held partition can be written to, as watchStorage does.
func (s *Service) NoteStorage(partition int, fault error) {
	s.mu.Lock()
	h := s.held[partition]
	s.mu.Unlock()
	h.noteStorage(fault)
}

// AdmitPartition is what a partition is asked before it is sequenced.
func (s *Service) AdmitPartition(ctx context.Context, partition int) error {
	return s.admit(ctx, partition)
}
