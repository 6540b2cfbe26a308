//! Ends of the process at every boundary of a round, and a write-ahead log whose end is torn.
