//! Checks of histories: what clients saw, against each other and against what is there in the end.
//!
//! They know nothing of the world in which the history was made.

mod explained;

pub use explained::values_are_explained;
